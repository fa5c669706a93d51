//! Nanoseconds a check in shared memory, from one process and from two at once, beside `memory://`.
//!
//! `cargo run --release -p tollway-stores --features shm --example shm_speed [-- ROUNDS]`. Each row is
//! the median of so many rounds, and the least of them; the processes of a row start together and the slower one counts.

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Instant;

use tollway_core::{Algorithm, Charge, Clock, Policy, Request, Store, Timestamp};
use tollway_stores::SystemClock;
use tollway_stores::memory::MemoryStore;
use tollway_stores::shm::{ShmOptions, ShmStore};

const KEYS: usize = 100_000;
const CHECKS: usize = 1_000_000;
/// What a child is told, in its environment.
const ROW: &str = "TOLLWAY_SHM_SPEED";

fn policy(name: &str, rates: &str) -> Arc<Policy> {
    Arc::new(Policy::new(name, rates, Algorithm::Gcra).expect("a policy"))
}

fn keys(what: &str) -> Vec<String> {
    let count = if what == "hot" { 1 } else { KEYS };
    (0..count).map(|number| format!("user:{:08}", number * 2_654_435_761 % 99_999_989)).collect()
}

/// Nanoseconds a check of all `keys` in an order that looks random.
fn time(store: &dyn Store, policy: &Arc<Policy>, keys: &[String]) -> f64 {
    let check = |at: usize| {
        let charges = [Charge { policy, key: &keys[at % keys.len()], cost: 1 }];
        let answer = store.apply_now(&Request { charges: &charges, peek: false });
        usize::from(matches!(answer, Some(Ok(decision)) if decision.allowed))
    };
    let (start, mut passed, mut at) = (Instant::now(), 0, std::process::id() as usize);
    for _ in 0..CHECKS {
        at = at.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        passed += check(at >> 33);
    }
    std::hint::black_box(passed);
    start.elapsed().as_nanos() as f64 / CHECKS as f64
}

fn rates(what: &str) -> &'static str {
    if what == "three" { "1000000000/h; 900000000/d; 800000000/7d" } else { "1000000000/h" }
}

/// A child: says that it is ready, waits, measures, says so, until told no more.
fn measure(name: &str, what: &str) {
    let url = format!("shm://{name}?max_keys=150000&tables=8");
    let store = ShmStore::open(&url, ShmOptions::default()).expect("a segment");
    let (policy, keys) = (policy(what, rates(what)), keys(what));
    time(&store, &policy, &keys);
    println!("ready");
    for line in std::io::stdin().lines() {
        if line.is_err() {
            return;
        }
        println!("{}", time(&store, &policy, &keys));
    }
}

fn start(name: &str, what: &str) -> Child {
    Command::new(env::current_exe().expect("a program"))
        .env(ROW, format!("{name} {what}"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a child")
}

/// The median, and the least: what it is when nothing else runs.
fn both(mut values: Vec<f64>) -> String {
    values.sort_by(f64::total_cmp);
    format!("{:.1} ({:.1})", values[values.len() / 2], values[0])
}

fn row(name: &str, what: &str, processes: usize, rounds: usize) -> String {
    let mut children: Vec<_> = (0..processes).map(|_| start(name, what)).collect();
    let mut lines: Vec<_> =
        children.iter_mut().map(|child| BufReader::new(child.stdout.take().expect("piped")).lines()).collect();
    let mut next = |child: usize| lines[child].next().expect("a line").expect("text");
    (0..processes).for_each(|child| assert_eq!(next(child), "ready"));
    let mut times = Vec::new();
    for _ in 0..rounds {
        for child in &mut children {
            child.stdin.as_mut().expect("piped").write_all(b"go\n").expect("a reader");
        }
        times.push((0..processes).map(|child| next(child).parse().expect("a number")).fold(0.0, f64::max));
    }
    for mut child in children {
        drop(child.stdin.take());
        child.wait().expect("a child");
    }
    both(times)
}

/// Nanoseconds a look at a clock.
fn clock(what: &str, read: impl Fn() -> Timestamp) {
    let start = Instant::now();
    for _ in 0..CHECKS {
        std::hint::black_box(read());
    }
    println!("{what:<32} {:>7.1} ns", start.elapsed().as_nanos() as f64 / CHECKS as f64);
}

fn main() {
    if let Ok(told) = env::var(ROW) {
        let (name, what) = told.split_once(' ').expect("two words");
        return measure(name, what);
    }
    let rounds = env::args().nth(1).map_or(7, |rounds| rounds.parse().expect("a number of rounds"));
    clock("kernel's clock", || Timestamp::from_nanos(tollway_mapping::monotonic()));
    let counter = SystemClock::new();
    clock("processor's counter", || counter.now());
    let name = format!("speed-{}", std::process::id());
    println!("{:<28} {:>18} {:>18} {:>18}", "ns, median (least)", "memory://", "1 process", "2 processes");
    for (title, what) in [("one hot key", "hot"), ("100,000 keys", "many"), ("100,000 keys, three limits", "three")] {
        let memory = MemoryStore::new(150_000);
        let (policy, keys) = (policy(what, rates(what)), keys(what));
        time(&memory, &policy, &keys);
        let inside = both((0..rounds).map(|_| time(&memory, &policy, &keys)).collect());
        let [one, two] = [1, 2].map(|processes| row(&name, what, processes, rounds));
        println!("{title:<28} {inside:>18} {one:>18} {two:>18}");
    }
    std::fs::remove_file(format!("/dev/shm/tollway-{name}")).expect("the segment");
}
