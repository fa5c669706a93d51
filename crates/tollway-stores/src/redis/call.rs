//! Many callers' jobs as one round trip: packed into commands, and the answers handed out.

use std::time::{SystemTime, UNIX_EPOCH};

use redis::{Cmd, Pipeline, ServerError, ServerErrorKind, Value};
use smallvec::SmallVec;
use tollway_core::{Algorithm, Bucket, Change, Limit, StoreError, Timestamp};

use super::ask::{Answer, Ask, Asks, Due};
use super::form::{self, Code};
use super::hop::Route;
use super::queue::{Done, Job, Work, go_elsewhere};
use super::script::Script;
use super::trouble;
use crate::remote::Work as _;

/// Shapes are named by one byte.
const MOST_SHAPES: usize = 255;
/// Keys in one script call: what bounds the time it blocks the server.
pub(super) const MOST_KEYS: usize = 512;
/// How often a job is sent when the connection or the script is lost meanwhile.
pub(super) const MOST_TRIES: u8 = 3;

/// What one command of a call is for.
#[derive(Debug)]
enum Step {
    /// Loads the script.
    Load,
    /// The next `asks` requests of the jobs that apply.
    Apply { asks: usize },
    /// The next job that does not.
    Other,
    /// Says that the next command is for a slot in motion.
    Asking,
}

/// A round trip: its commands, and the jobs in the order of the answers.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) pipeline: Pipeline,
    pub(super) jobs: Vec<Job>,
    steps: Vec<Step>,
}

/// What became of a job that was sent.
#[derive(Debug)]
pub(super) struct Leftover {
    /// Jobs that had no effect because the server does not have the script.
    pub(super) again: Vec<Job>,
    /// Whether the script has to be loaded.
    pub(super) load: bool,
    /// Whether the server is no primary any more; asked for by `follow` only.
    pub(super) demoted: bool,
    /// Whether a demoted server's jobs come back instead of failing.
    follow: bool,
}

impl Call {
    /// Packs jobs; `load` puts the script in front, in the same round trip.
    pub(super) fn pack(mut jobs: Vec<Job>, load: bool) -> Self {
        jobs.sort_by_key(|job| (job.work.route.rank(), job.work.script()));
        let mut packer = Packer { pipeline: Pipeline::new(), steps: Vec::new(), chunk: Chunk::default() };
        if load && jobs.iter().any(|job| matches!(job.work.work, Work::Apply(_))) {
            for script in Script::ALL {
                packer.command(Step::Load, ["SCRIPT", "LOAD", script.source()]);
            }
        }
        for job in &jobs {
            if job.work.route == (Route::Alone { asking: true }) {
                packer.command(Step::Asking, ["ASKING"]);
            }
            match &job.work.work {
                Work::Apply(asks) => {
                    packer.begin(job, asks.len());
                    asks.iter().for_each(|ask| packer.ask(ask));
                }
                Work::Say(command) => packer.command(Step::Other, &command.words),
            }
        }
        packer.close();
        let Packer { pipeline, steps, .. } = packer;
        Self { pipeline, jobs, steps }
    }

    /// Hands the server's answers to the callers; with `follow`, those of a server that became a
    /// replica come back to be asked elsewhere.
    pub(super) fn hand_out(self, replies: Vec<Value>, store: &str, follow: bool) -> Leftover {
        let mut answers = Vec::new();
        let mut others = Vec::new();
        let mut loaded = Ok(());
        let mut asks = self.jobs.iter().flat_map(|job| match &job.work.work {
            Work::Apply(asks) => asks.as_slice(),
            _ => &[],
        });
        for (step, reply) in self.steps.iter().zip(replies) {
            match (step, reply) {
                (Step::Load, Value::ServerError(error)) => loaded = Err(trouble::command(store, &error)),
                (Step::Load | Step::Asking, _) => {}
                (Step::Apply { asks: count }, reply) => unpack(&mut answers, &mut asks, *count, reply, store),
                (Step::Other, Value::ServerError(error)) => others.push(Err(error)),
                (Step::Other, value) => others.push(Ok(value)),
            }
        }
        drop(asks);
        let (mut answers, mut others) = (answers.into_iter(), others.into_iter());
        let mut left = Leftover { again: Vec::new(), load: false, demoted: false, follow };
        for job in self.jobs {
            match &job.work.work {
                Work::Apply(asks) => {
                    let own: SmallVec<[_; 1]> = answers.by_ref().take(asks.len()).collect();
                    left.finish(job, own.into_iter().collect(), &loaded, store);
                }
                _ => match others.next() {
                    Some(Ok(value)) => job.finish(Ok(Done::Said(value))),
                    Some(Err(error)) => match job.work.route.hop(&error) {
                        Some(hop) => go_elsewhere(job, hop),
                        None => job.finish(Err(trouble::command(store, &error))),
                    },
                    None => job.finish(Err(trouble::unexpected(store, "an answer is missing"))),
                },
            }
        }
        left
    }
}

impl Leftover {
    fn finish(
        &mut self,
        mut job: Job,
        answers: Result<Vec<Answer>, Failure>,
        loaded: &Result<(), StoreError>,
        store: &str,
    ) {
        let complete = |work: &Work, count| matches!(work, Work::Apply(asks) if asks.len() == count);
        match answers {
            Ok(answers) if self.follow && answers.iter().any(Answer::is_of_a_replica) => {
                self.demoted = true;
                job.tries += 1;
                if job.tries >= MOST_TRIES {
                    job.finish(Err(trouble::demoted(store)));
                } else {
                    self.again.push(job);
                }
            }
            Ok(answers) if complete(&job.work.work, answers.len()) => {
                let work = std::mem::replace(&mut job.work.work, Work::Apply(Asks::new()));
                let Work::Apply(asks) = work else { return };
                job.finish(Ok(Done::Applied(asks, answers)));
            }
            Ok(_) => job.finish(Err(trouble::unexpected(store, "an answer is missing"))),
            Err(Failure::Server(error)) => match job.work.route.hop(&error) {
                Some(hop) => go_elsewhere(job, hop),
                None => job.finish(Err(trouble::command(store, &error))),
            },
            Err(Failure::NoScript(error)) => {
                self.load = true;
                job.tries += 1;
                match loaded {
                    Err(cause) => job.finish(Err(cause.clone())),
                    Ok(()) if job.tries >= MOST_TRIES => job.finish(Err(error)),
                    Ok(()) => self.again.push(job),
                }
            }
            Err(Failure::Other(error)) => job.finish(Err(error)),
        }
    }
}

/// Why a script call gave no answers.
#[derive(Clone, Debug)]
enum Failure {
    /// It was not run.
    NoScript(StoreError),
    /// The server said why.
    Server(ServerError),
    Other(StoreError),
}

/// Takes one script call's reply apart into an answer for each of its `count` requests.
fn unpack<'a>(
    answers: &mut Vec<Result<Answer, Failure>>,
    asks: &mut impl Iterator<Item = &'a Ask>,
    count: usize,
    reply: Value,
    store: &str,
) {
    let failure = match reply {
        Value::Array(values) => match unpack_values(answers, asks, count, values) {
            Some(()) => return,
            None => Failure::Other(trouble::unexpected(store, "the script's answer has another form")),
        },
        Value::ServerError(error) => {
            asks.take(count).for_each(drop);
            match error.kind() {
                Some(ServerErrorKind::NoScript) => Failure::NoScript(trouble::command(store, &error)),
                _ => Failure::Server(error),
            }
        }
        _ => Failure::Other(trouble::unexpected(store, "the script's answer is no array")),
    };
    answers.extend((0..count).map(|_| Err(failure.clone())));
}

fn unpack_values<'a>(
    answers: &mut Vec<Result<Answer, Failure>>,
    asks: &mut impl Iterator<Item = &'a Ask>,
    count: usize,
    values: Vec<Value>,
) -> Option<()> {
    let asks: SmallVec<[&Ask; 8]> = asks.take(count).collect();
    let keys: usize = asks.iter().map(|ask| ask.dues.len()).sum();
    let well_formed = values.len() == keys + 2;
    let mut values = values.into_iter();
    let (Some(Value::Int(now)), Some(Value::BulkString(letters))) = (values.next(), values.next()) else {
        return None;
    };
    if !well_formed || letters.len() != count {
        return None;
    }
    let now = Timestamp::from_micros(u64::try_from(now).ok()?);
    for (ask, letter) in asks.iter().zip(letters) {
        let raws = values.by_ref().take(ask.dues.len()).map(|value| match value {
            Value::BulkString(raw) => Some(raw),
            _ => None,
        });
        answers.push(Ok(Answer { now, letter, raws: raws.collect() }));
    }
    Some(())
}

struct Packer<'a> {
    pipeline: Pipeline,
    steps: Vec<Step>,
    chunk: Chunk<'a>,
}

/// A script call in the making.
#[derive(Default)]
struct Chunk<'a> {
    /// One ask of each shape.
    shapes: Vec<&'a Ask>,
    asks: Vec<&'a Ask>,
    order: Vec<u8>,
    keys: usize,
    /// The way its jobs came; all the same one.
    route: Option<Route>,
    script: Script,
}

impl Chunk<'_> {
    /// The script for what it asks, when that is about one limit.
    fn lone(&self) -> Option<Script> {
        let [ask] = self.asks.as_slice() else { return None };
        let [due] = ask.dues.as_slice() else { return None };
        let [limit] = due.policy.limits() else { return None };
        if self.script != Script::Plain || ask.change.is_some() || !ask.swaps.is_empty() {
            return None;
        }
        match limit.algorithm() {
            Algorithm::Gcra | Algorithm::TokenBucket | Algorithm::LeakyBucket(_) => Some(Script::Bucket),
            Algorithm::FixedWindow(_) => Some(Script::Window),
            Algorithm::SlidingWindow => Some(Script::Sliding),
            _ => None,
        }
    }
}

impl<'a> Packer<'a> {
    fn command<T: AsRef<[u8]>>(&mut self, step: Step, words: impl IntoIterator<Item = T>) {
        self.close();
        let mut cmd = Cmd::new();
        for word in words {
            cmd.arg(word.as_ref());
        }
        self.pipeline.add_command(cmd);
        self.steps.push(step);
    }

    /// Before the requests of a job: in a cluster they share a command with their slot only, and are
    /// never cut in two, so that all of them are answered or none.
    fn begin(&mut self, job: &Job, asks: usize) {
        let chunk = &self.chunk;
        let (keys, script) = (job.work.size(), job.work.script());
        let fits = match job.work.route {
            Route::Anywhere => true,
            Route::Slot(_) => chunk.keys + keys <= MOST_KEYS && chunk.shapes.len() + asks <= MOST_SHAPES,
            Route::Alone { .. } => false,
        };
        if !fits || chunk.route != Some(job.work.route) || chunk.script != script {
            self.close();
        }
        (self.chunk.route, self.chunk.script) = (Some(job.work.route), script);
    }

    fn ask(&mut self, ask: &'a Ask) {
        let chunk = &self.chunk;
        if !chunk.asks.is_empty() && chunk.keys + ask.dues.len() > MOST_KEYS {
            self.close();
        }
        let known = self.chunk.shapes.iter().position(|shape| shape.same_shape(ask));
        if known.is_none() && self.chunk.shapes.len() == MOST_SHAPES {
            self.close();
        }
        let chunk = &mut self.chunk;
        let shape = known.unwrap_or(chunk.shapes.len());
        if shape == chunk.shapes.len() {
            chunk.shapes.push(ask);
        }
        chunk.order.push((shape + 1) as u8);
        chunk.keys += ask.dues.len();
        chunk.asks.push(ask);
    }

    /// Ends the script call in the making, if there is one.
    fn close(&mut self) {
        let next = Chunk { route: self.chunk.route, script: self.chunk.script, ..Chunk::default() };
        let chunk = std::mem::replace(&mut self.chunk, next);
        if chunk.asks.is_empty() {
            return;
        }
        let size = chunk.asks.iter().flat_map(|ask| &ask.dues).map(|due| due.key.len() + 12).sum::<usize>();
        let mut cmd = Cmd::with_capacity(chunk.keys + chunk.shapes.len() + 5, size + 128 * (chunk.shapes.len() + 1));
        let script = chunk.lone().unwrap_or(chunk.script);
        cmd.arg("EVALSHA").arg(script.digest()).arg(chunk.keys);
        for due in chunk.asks.iter().flat_map(|ask| &ask.dues) {
            cmd.arg(&due.key);
        }
        cmd.arg(chunk.shapes.len());
        for shape in &chunk.shapes {
            cmd.arg(spell(shape));
        }
        cmd.arg(&chunk.order);
        for swap in chunk.asks.iter().flat_map(|ask| &ask.swaps) {
            cmd.arg(&swap.expected).arg(&swap.value);
        }
        self.pipeline.add_command(cmd);
        self.steps.push(Step::Apply { asks: chunk.asks.len() });
    }
}

/// A request's shape in the script's words.
fn spell(ask: &Ask) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(96);
    let (change, since) = match ask.change {
        None => (0, Timestamp::default()),
        Some(Change::Refund(_)) => (4, Timestamp::default()),
        Some(Change::Charge(_)) => (8, Timestamp::default()),
        Some(Change::Release { since, .. }) => (16, since),
        Some(Change::Renew { since, .. }) => (32, since),
    };
    let mode = u8::from(ask.peek) + 2 * u8::from(!ask.swaps.is_empty()) + change;
    // An instant of another clock, with parts of a microsecond, is none of the server's.
    let since = if since.nanos().is_multiple_of(1_000) { since.nanos() / 1_000 } else { 0 };
    let _ = write!(text, "{mode} {since} {}", ask.dues.len());
    for due in &ask.dues {
        // One millisecond more, because the server's own clock reading for expiry is cut to one.
        let lifetime = due.policy.lifetime().div_ceil(1_000_000) + 1;
        let _ = write!(text, " {lifetime} {} {}", due.cost, due.policy.limits().len());
        for limit in due.policy.limits() {
            spell_limit(ask, due, limit, &mut text);
        }
    }
    text
}

fn spell_limit(ask: &Ask, due: &Due, limit: &Limit, text: &mut String) {
    use std::fmt::Write;
    let _ = write!(text, " {}", Code::of(limit));
    // Around this host's clock; the server says when its own stands elsewhere.
    let here = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64);
    let around = || ask.around.unwrap_or_else(|| Timestamp::from_micros(here()));
    if limit.algorithm() == Algorithm::Calendar {
        let edges = form::edges(limit, around()).unwrap_or_default();
        for edge in edges {
            let _ = write!(text, " {edge}");
        }
        return;
    }
    if limit.algorithm().is_log() {
        return;
    }
    // More than the capacity is refused unseen, and is at most twice that when charged unasked.
    let most = limit.capacity().saturating_mul(if ask.change.is_some() { 2 } else { 1 });
    let (width, fraction) = span(limit, due.cost.min(most));
    let (tolerance, tolerance_fraction) = span(limit, limit.capacity());
    let _ = write!(text, " {width} {fraction} {tolerance} {tolerance_fraction}");
    let bucket = limit.bucket();
    if *bucket != Bucket::default() {
        let (lacking, fraction) = span(limit, bucket.initial.map_or(0, |initial| limit.capacity() - initial));
        let traits = u8::from(bucket.partial) + 2 * u8::from(bucket.initial.is_some());
        let _ = write!(text, " ~{} {lacking} {fraction} {traits}", bucket.refill_every / 1_000);
    }
}

/// How long the rate takes to earn `cost` permits: microseconds and a fraction in 1/permits of one.
fn span(limit: &Limit, cost: u32) -> (u64, u64) {
    let permits = u128::from(limit.permits());
    let units = u128::from(cost) * u128::from(limit.period() / 1_000);
    ((units / permits) as u64, (units % permits) as u64)
}
