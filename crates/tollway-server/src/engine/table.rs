//! The connections of an engine, addressed by slot and generation.

/// Names one connection. A key outlives its connection without harm: the
/// generation of a slot changes whenever it is freed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Key {
    pub(super) slot: u32,
    pub(super) generation: u32,
}

impl Key {
    /// Packs the key into an event token.
    pub(super) fn token(self) -> mio::Token {
        mio::Token(((self.generation as usize) << 32) | self.slot as usize)
    }

    /// The reverse of [`token`](Self::token).
    pub(super) fn from_token(token: mio::Token) -> Self {
        Key { slot: token.0 as u32, generation: (token.0 >> 32) as u32 }
    }
}

struct Slot<T> {
    generation: u32,
    used: bool,
    /// `None` in a free slot and while the connection is being polled.
    item: Option<Box<T>>,
}

/// A slab whose items are taken out while they are worked on, so that no borrow
/// of the table is live meanwhile.
pub(super) struct Table<T> {
    slots: Vec<Slot<T>>,
    free: Vec<u32>,
}

impl<T> Table<T> {
    pub(super) fn new() -> Self {
        Table { slots: Vec::new(), free: Vec::new() }
    }

    /// Connections in the table, those taken out included.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Reserves a slot. [`put`](Self::put) fills it, [`remove`](Self::remove) frees it.
    pub(super) fn reserve(&mut self) -> Key {
        if let Some(slot) = self.free.pop() {
            let entry = &mut self.slots[slot as usize];
            entry.used = true;
            return Key { slot, generation: entry.generation };
        }
        let slot = self.slots.len() as u32;
        self.slots.push(Slot { generation: 0, used: true, item: None });
        Key { slot, generation: 0 }
    }

    fn slot(&mut self, key: Key) -> Option<&mut Slot<T>> {
        let slot = self.slots.get_mut(key.slot as usize)?;
        (slot.used && slot.generation == key.generation).then_some(slot)
    }

    /// Takes a connection out, if it exists and is not out already.
    pub(super) fn take(&mut self, key: Key) -> Option<Box<T>> {
        self.slot(key)?.item.take()
    }

    /// Puts a connection in or back.
    pub(super) fn put(&mut self, key: Key, item: Box<T>) {
        if let Some(slot) = self.slot(key) {
            slot.item = Some(item);
        }
    }

    /// Frees the slot. What is in it must have been taken out before.
    pub(super) fn remove(&mut self, key: Key) {
        if let Some(slot) = self.slot(key) {
            slot.used = false;
            slot.generation = slot.generation.wrapping_add(1);
            self.free.push(key.slot);
        }
    }

    /// The connections that are in, with their keys.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Key, &T)> {
        self.slots.iter().enumerate().filter_map(|(index, slot)| {
            let key = Key { slot: index as u32, generation: slot.generation };
            slot.item.as_deref().map(|item| (key, item))
        })
    }
}
