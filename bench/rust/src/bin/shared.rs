//! Checks of one limit by several processes of a host, over `shm://`.
//!
//! Prints one JSON object: for each case, nanoseconds a check of one process, one number a round.
//! `shared ROUNDS CHECKS` starts itself again as `shared worker URL KEYS CHECKS`, which lets its keys
//! in, says so, and measures once for each line it is sent.

use std::hint::black_box;
use std::io::{BufRead, BufReader, Write, stdin};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tollway::{Algorithm, Charge, FailMode, Limiter, Policy};
use tollway_bench::spent;
use tollway_stores::shm::{ShmOptions, ShmStore};

/// Keys written at a time, before the time is taken: a server has them fresh in its cache.
const BATCH: usize = 256;
const MOST_KEYS: usize = 100_000;

type Failure = Box<dyn std::error::Error>;

/// Measures once for each line of standard input.
fn work(url: &str, keys: usize, checks: usize) -> Result<(), Failure> {
    let store = ShmStore::open(url, ShmOptions::default())?;
    let limiter = Limiter::new(Arc::new(store), FailMode::Closed);
    let policy = Arc::new(Policy::new("bench", "100/h burst 79999900", Algorithm::Gcra)?);
    let check = |key: &String| {
        let charges = [Charge { policy: &policy, key, cost: 1 }];
        limiter.check_now(&charges).is_some_and(|answer| answer.is_ok_and(|decision| decision.allowed))
    };
    let write = |key: &mut String, number: usize| {
        use std::fmt::Write;
        key.clear();
        write!(key, "user:{number:010}").expect("a string takes all");
    };
    let mut key = String::new();
    for number in 0..keys {
        write(&mut key, number);
        check(&key);
    }
    println!("ready");
    let mut batch = vec![String::with_capacity(32); BATCH];
    let mut dice = u64::from(std::process::id()) | 1;
    for line in stdin().lines() {
        line?;
        let (mut passed, mut took) = (0, Duration::ZERO);
        for _ in 0..checks / BATCH {
            for key in &mut batch {
                dice = dice.wrapping_mul(0x5851_F42D_4C95_7F2D).wrapping_add(0x1405_7B7E_F767_814F);
                write(key, (dice >> 33) as usize % keys);
            }
            let began = spent();
            passed += batch.iter().filter(|key| check(key)).count();
            took += spent() - began;
        }
        black_box(passed);
        println!("{}", took.as_nanos() as f64 / (checks / BATCH * BATCH) as f64);
    }
    Ok(())
}

/// A worker process and the ends of its pipes. It ends when its standard input does.
struct Worker {
    child: Child,
    orders: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Worker {
    fn start(url: &str, keys: usize, checks: usize) -> Result<Self, Failure> {
        let mut child = Command::new(std::env::current_exe()?)
            .args(["worker", url, &keys.to_string(), &checks.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let answers = BufReader::new(child.stdout.take().ok_or("no output")?);
        let mut worker = Self { orders: child.stdin.take(), child, answers };
        worker.hear()?;
        Ok(worker)
    }

    fn hear(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        match self.answers.read_line(&mut line)? {
            0 => Err("a worker ended early".into()),
            _ => Ok(line.trim().to_owned()),
        }
    }

    fn go(&mut self) -> Result<(), Failure> {
        Ok(self.orders.as_mut().ok_or("no input")?.write_all(b"go\n")?)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.orders = None;
        let _ = self.child.wait();
    }
}

/// The slowest of some workers that are sent off together.
fn round(workers: &mut [Worker]) -> Result<f64, Failure> {
    workers.iter_mut().try_for_each(Worker::go)?;
    workers.iter_mut().try_fold(0.0, |slowest: f64, worker| Ok(slowest.max(worker.hear()?.parse()?)))
}

fn measure(rounds: usize, checks: usize) -> Result<(), Failure> {
    let name = format!("bench-{}", std::process::id());
    let url = format!("shm://{name}?max_keys={}&tables=1", MOST_KEYS * 3 / 2);
    let mut rows = Vec::new();
    for (keys, what) in [(1, "one hot key"), (MOST_KEYS, "100,000 keys")] {
        let mut workers = [Worker::start(&url, keys, checks)?, Worker::start(&url, keys, checks)?];
        let mut found = [Vec::new(), Vec::new()];
        for _ in 0..rounds {
            for (number, found) in found.iter_mut().enumerate() {
                found.push(round(&mut workers[..=number])?);
            }
        }
        let [alone, both] = found;
        rows.push(format!("\"{what}, 1 process\": {alone:?}, \"{what}, 2 processes\": {both:?}"));
    }
    println!("{{{}}}", rows.join(", "));
    let store = ShmStore::open(&url, ShmOptions::default())?;
    Ok(std::fs::remove_file(store.path())?)
}

fn main() -> Result<(), Failure> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["worker", url, keys, checks] => work(url, keys.parse()?, checks.parse()?),
        [rounds, checks] => measure(rounds.parse()?, checks.parse()?),
        _ => Err("shared ROUNDS CHECKS".into()),
    }
}
