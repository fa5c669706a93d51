//! What happens in a turn: events, accepting, woken connections, shutdown.

use super::*;

/// How much one turn may still do.
pub(super) struct Budget {
    start: Instant,
    requests: u64,
}

/// Marks that a call is running, until it is dropped.
pub(super) struct Inside<'a> {
    inside: &'a Cell<bool>,
    _running: Running,
}

impl Drop for Inside<'_> {
    fn drop(&mut self) {
        self.inside.set(false);
    }
}

impl<H: Handler> Engine<H> {
    /// Starts a call, unless one is running.
    pub(super) fn enter(&self) -> Option<Inside<'_>> {
        if self.inside.replace(true) {
            return None;
        }
        Some(Inside { inside: &self.inside, _running: Running::enter(&self.queue) })
    }

    pub(super) fn budget(&self) -> Budget {
        let start = Instant::now();
        self.shared.now.set(start);
        Budget { start, requests: self.shared.requests.get() + TURN_REQUESTS }
    }

    fn has_budget(&self, budget: &Budget) -> bool {
        self.shared.requests.get() < budget.requests && budget.start.elapsed() < TURN_TIME
    }

    /// One turn, which waits up to `wait` for events.
    pub(super) fn cycle(&self, wait: Option<Duration>) -> io::Result<Turn> {
        let Some(_inside) = self.enter() else { return Ok(Turn::Nested) };
        let mut events = self.events.take().unwrap_or_else(|| Events::with_capacity(EVENTS));
        let polled = self.poll.borrow_mut().poll(&mut events, wait);
        if let Err(error) = polled
            && error.kind() != io::ErrorKind::Interrupted
        {
            self.events.set(Some(events));
            return Err(error);
        }
        let budget = self.budget();
        // Connections that wait since the last turn come first.
        let at_once = self.queue.is_empty();
        for event in &events {
            match event.token() {
                LISTENER => self.acceptable.set(true),
                WAKER => self.queue.seen(),
                token => self.on_event(Key::from_token(token), event, at_once, &budget),
            }
        }
        events.clear();
        self.events.set(Some(events));
        self.accept(&budget);
        self.run_queue(&budget);
        Ok(self.settle())
    }

    fn on_event(&self, key: Key, event: &Event, at_once: bool, budget: &Budget) {
        let Some(connection) = self.take(key) else { return };
        let useful = connection.wire.note(event);
        if useful && at_once && self.has_budget(budget) {
            self.step(key, connection, budget.start);
            return;
        }
        if useful {
            connection.wake.queue();
        }
        self.table.borrow_mut().put(key, connection);
    }

    /// Steps a connection that was taken out of the table.
    fn step(&self, key: Key, mut connection: Box<Connection<H>>, now: Instant) {
        match connection.step(now) {
            Fate::Keep => self.put(key, connection),
            Fate::Drop => self.discard(key, connection),
        }
    }

    /// Takes a connection out. Not inline: no borrow may outlast the statement.
    fn take(&self, key: Key) -> Option<Box<Connection<H>>> {
        self.table.borrow_mut().take(key)
    }

    fn put(&self, key: Key, connection: Box<Connection<H>>) {
        if let Some(deadline) = connection.deadline()
            && self.earliest.get().is_none_or(|earliest| deadline < earliest)
        {
            self.earliest.set(Some(deadline));
        }
        self.table.borrow_mut().put(key, connection);
    }

    /// Dropping a connection drops its handler's future, which can run any code.
    fn discard(&self, key: Key, connection: Box<Connection<H>>) {
        self.table.borrow_mut().remove(key);
        drop(connection);
    }

    /// Polls the connections that were woken, until none is left or the budget is.
    pub(super) fn run_queue(&self, budget: &Budget) {
        let mut batch = self.batch.take();
        loop {
            self.queue.take(&mut batch);
            if batch.is_empty() {
                break;
            }
            for (index, &key) in batch.iter().enumerate() {
                if !self.has_budget(budget) {
                    self.queue.put_back(&batch[index..]);
                    break;
                }
                let Some(connection) = self.take(key) else { continue };
                self.step(key, connection, budget.start);
            }
            batch.clear();
            if !self.has_budget(budget) {
                break;
            }
        }
        self.batch.set(batch);
    }

    /// Accepts until nobody waits, the cap is reached or it is enough for now.
    fn accept(&self, budget: &Budget) {
        self.end_accept_pause(budget.start);
        for _ in 0..TURN_ACCEPTS {
            if !self.can_accept() {
                return;
            }
            self.accept_one(budget.start);
        }
    }

    /// Tries again to accept, if the pause after a failure is over.
    pub(super) fn end_accept_pause(&self, now: Instant) {
        if self.accept_pause.get().is_some_and(|until| until <= now) {
            self.accept_pause.set(None);
            self.acceptable.set(true);
        }
    }

    fn can_accept(&self) -> bool {
        self.acceptable.get()
            && self.accept_pause.get().is_none()
            && self.open_connections() < self.shared.settings.max_connections
    }

    fn accept_one(&self, now: Instant) {
        let accepted = match &*self.listener.borrow() {
            Some(listener) => listener.accept(),
            None => return self.acceptable.set(false),
        };
        match accepted {
            Ok((socket, peer)) => self.open(socket, peer, now),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock => self.acceptable.set(false),
                // The client gave up while it waited.
                io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted => {}
                // Out of descriptors or memory: the clients go on waiting.
                _ => self.accept_pause.set(Some(now + ACCEPT_PAUSE)),
            },
        }
    }

    fn open(&self, mut socket: Plain, peer: SocketAddr, now: Instant) {
        self.accepted.set(self.accepted.get() + 1);
        let key = self.table.borrow_mut().reserve();
        let settings = &self.shared.settings;
        let registered = socket.register(&self.registry, key.token());
        let Ok(transport) = registered.and_then(|()| Transport::new(socket, settings.tls.as_ref())) else {
            // Without events the connection cannot be served: it is closed.
            self.table.borrow_mut().remove(key);
            return;
        };
        let limits = Limits {
            max_head_bytes: settings.max_head_bytes,
            max_target_bytes: settings.max_target_bytes,
            max_headers: settings.max_headers,
            max_body_bytes: settings.max_body_bytes as u64,
        };
        let wire = Wire::new(transport, limits, Rc::clone(&self.scratch), now);
        let wake = ConnectionWaker::new(key, Arc::clone(&self.queue));
        let connection = Connection::new(wire, Some(peer), Rc::clone(&self.shared), wake, now);
        self.put(key, Box::new(connection));
    }

    /// Ends a call: does what was asked for meanwhile, and makes sure that what
    /// is left is not forgotten.
    pub(super) fn settle(&self) -> Turn {
        if self.queue.shutdown_asked() && !self.shared.draining.get() {
            self.drain();
        }
        if self.queue.abort_asked() && self.open_connections() > 0 {
            self.drop_all();
        }
        if self.can_accept() || !self.queue.is_empty() {
            self.queue.signal();
            return Turn::More;
        }
        Turn::Done
    }

    /// Begins the shutdown.
    fn drain(&self) {
        let now = Instant::now();
        self.shared.draining.set(true);
        self.acceptable.set(true);
        // A socket shared with another process may have clients without end.
        for _ in 0..MAX_QUEUED {
            if !self.acceptable.get() || self.accept_pause.get().is_some() {
                break;
            }
            self.accept_one(now);
        }
        *self.listener.borrow_mut() = None;
        self.acceptable.set(false);
        self.accept_pause.set(None);
        let hurry = now + self.shared.settings.linger_timeout;
        for key in self.keys() {
            let Some(mut connection) = self.take(key) else { continue };
            // Requests that have arrived and were not read yet are answered.
            connection.wire.look_again();
            match connection.step(now) {
                Fate::Keep if !connection.is_forgotten(now) => {
                    connection.hurry(hurry);
                    self.put(key, connection);
                }
                _ => self.discard(key, connection),
            }
        }
    }

    fn drop_all(&self) {
        for key in self.keys() {
            if let Some(connection) = self.take(key) {
                self.discard(key, connection);
            }
        }
    }

    fn keys(&self) -> Vec<Key> {
        self.table.borrow().iter().map(|(key, _)| key).collect()
    }

    /// Acts on every deadline up to `now`, and finds the next.
    pub(super) fn expire_due(&self, now: Instant) {
        self.last_look.set(now);
        self.earliest.set(None);
        let mut due = Vec::new();
        let mut earliest: Option<Instant> = None;
        for (key, connection) in self.table.borrow().iter() {
            match connection.deadline() {
                Some(deadline) if deadline <= now => due.push(key),
                Some(deadline) => {
                    earliest = Some(earliest.map_or(deadline, |other| other.min(deadline)));
                }
                None => {}
            }
        }
        self.earliest.set(earliest);
        for key in due {
            let Some(mut connection) = self.take(key) else { continue };
            let (fate, expiry) = connection.expire(now);
            if expiry == Expiry::TooSlow {
                self.timed_out.set(self.timed_out.get() + 1);
            }
            match fate {
                Fate::Keep => self.step(key, connection, now),
                Fate::Drop => self.discard(key, connection),
            }
        }
    }
}
