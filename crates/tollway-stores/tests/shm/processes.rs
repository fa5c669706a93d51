//! Many processes on one segment, some of which are killed.
//!
//! A process is this test program again, told by its environment to run [`work`].

use std::env;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use tollway_core::{Algorithm, Charge, Policy, Request, Store, conformance};

use crate::here::{Here, ask, policy};

const SIZE: &str = "max_keys=4000&tables=8";
const WORK: &str = "TOLLWAY_SHM_WORK";

fn limit() -> Arc<Policy> {
    policy("count", "10000000/365d", Algorithm::FixedWindow(tollway_core::Align::Clock))
}

/// Starts a process that does `what` with the segment.
fn start(here: &Here, what: &str) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "processes::work", "--ignored", "--nocapture", "--quiet"])
        .env(WORK, format!("{} {what}", here.name))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// The numbers a process wrote, each on a line, in order.
fn numbers(child: Child) -> Vec<u64> {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().filter_map(|line| line.strip_prefix("said ")?.parse().ok()).collect()
}

fn say(number: u64) {
    let mut out = std::io::stdout().lock();
    // One write: a line is there whole or not at all.
    out.write_all(format!("\nsaid {number}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

/// Waits until the test lets this process go, so that all begin at once.
fn wait_for_the_start() {
    let mut line = String::new();
    BufReader::new(std::io::stdin()).read_line(&mut line).unwrap();
}

fn let_go(child: &mut Child) {
    child.stdin.take().unwrap().write_all(b"go\n").unwrap();
}

#[test]
#[ignore = "what the processes of the other tests do"]
fn work() {
    let told = env::var(WORK).expect("started by another test");
    let mut words = told.split(' ');
    let here = std::mem::ManuallyDrop::new(Here { name: words.next().unwrap().to_owned(), clock: None });
    let what = words.next().unwrap();
    let times: u64 = words.next().map_or(0, |word| word.parse().unwrap());
    wait_for_the_start();
    let store = here.open(SIZE);
    match what {
        "spend" => {
            let limit = policy("spend", "50000/365d", Algorithm::Gcra);
            say((0..times).filter(|_| ask(&store, &limit, "k", 1).allowed).count() as u64);
        }
        // Until killed: acknowledges every charge, on keys of which some are pushed out.
        "count" => {
            let (limit, junk) = (limit(), policy("junk", "5/d", Algorithm::Gcra));
            for turn in 0.. {
                assert!(ask(&store, &limit, &format!("key-{}", turn % 7), 1).allowed);
                ask(&store, &junk, &format!("junk-{times}-{turn}"), 1);
                say(turn % 7);
            }
        }
        "together" => {
            let (one, two) = (limit(), policy("two", "10000000/365d; 20000000/366d", Algorithm::Gcra));
            for turn in 0..u64::MAX {
                let charges = [Charge { policy: &one, key: "k", cost: 1 }, Charge { policy: &two, key: "k", cost: 1 }];
                let request = Request { charges: &charges, peek: false };
                assert!(store.apply_now(&request).unwrap().unwrap().allowed);
                say(turn);
            }
        }
        "open" => say(u64::from(ask(&store, &limit(), "k", 1).allowed)),
        other => panic!("no such work: {other}"),
    }
}

#[test]
fn eight_processes_spend_exactly_the_limit() {
    let here = Here::new("spend");
    let mut children: Vec<_> = (0..8).map(|_| start(&here, "spend 10000")).collect();
    children.iter_mut().for_each(let_go);
    let passed: u64 = children.into_iter().flat_map(numbers).sum();
    // 50,000 a year come back one every ten minutes.
    assert!((50_000..=50_001).contains(&passed), "{passed}");
}

#[test]
fn whoever_is_killed_has_charged_what_was_acknowledged_and_one_more_at_most() {
    let here = Here::new("killed");
    let store = here.open(SIZE);
    let (rounds, others) = (25, 3);
    let (mut acknowledged, mut processes) = ([0_u64; 7], 0);
    for round in 0..rounds {
        let mut children: Vec<_> =
            (0..others).map(|number| start(&here, &format!("count {}", round * 10 + number))).collect();
        children.iter_mut().for_each(let_go);
        for (number, mut child) in children.into_iter().enumerate() {
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
            let mut said = Vec::new();
            // Killed wherever it happens to be after so many.
            while said.len() < 40 + (round as usize * 37 + number * 11) % 90 {
                let line = lines.next().expect("it goes on until killed").unwrap();
                said.extend(line.strip_prefix("said ").map(|key| key.parse::<usize>().unwrap()));
            }
            child.kill().unwrap();
            child.wait().unwrap();
            let rest = lines.map_while(Result::ok).filter_map(|line| line.strip_prefix("said ")?.parse::<usize>().ok());
            said.extend(rest);
            said.into_iter().for_each(|key| acknowledged[key] += 1);
            processes += 1;
        }
    }
    let limit = limit();
    let charged: Vec<u64> =
        (0..7).map(|key| 10_000_000 - u64::from(ask(&store, &limit, &format!("key-{key}"), 0).remaining)).collect();
    assert!(charged.iter().zip(&acknowledged).all(|(charged, known)| charged >= known), "{charged:?} {acknowledged:?}");
    let (charged, acknowledged): (u64, u64) = (charged.iter().sum(), acknowledged.iter().sum());
    assert!(charged <= acknowledged + processes, "{charged} charged, {acknowledged} acknowledged");
}

#[test]
fn whoever_is_killed_among_several_limits_frees_nothing() {
    let here = Here::new("among");
    let store = here.open(SIZE);
    let (mut acknowledged, mut processes) = (0, 0);
    for round in 0..15 {
        let mut children = [start(&here, "together"), start(&here, "together")];
        children.iter_mut().for_each(let_go);
        for mut child in children {
            let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
            let mut said = lines.filter(|line| line.starts_with("said "));
            acknowledged += said.by_ref().take(30 + round * 7).count() as u32;
            child.kill().unwrap();
            child.wait().unwrap();
            acknowledged += said.count() as u32;
            processes += 1;
        }
    }
    let one = 10_000_000 - ask(&store, &limit(), "k", 0).remaining;
    let two =
        10_000_000 - ask(&store, &policy("two", "10000000/365d; 20000000/366d", Algorithm::Gcra), "k", 0).remaining;
    // One charge of each may have gone unsaid, or halfway; a little has come back meanwhile.
    for charged in [one, two] {
        assert!(charged + 100 >= acknowledged && charged <= acknowledged + processes, "{one} {two} {acknowledged}");
    }
}

#[test]
fn whoever_is_killed_while_making_a_segment_leaves_one_that_works() {
    for round in 0..40_u64 {
        let here = Here::new("creating");
        let mut children: Vec<_> = (0..3).map(|_| start(&here, "open")).collect();
        children.iter_mut().for_each(let_go);
        let mut survivors = children.split_off(1);
        // Anywhere between its first step and its last.
        let steps = (round * 60_000) % 2_000_000;
        (0..steps).for_each(|step| std::hint::black_box(step).count_ones().checked_add(1).map_or((), drop));
        children[0].kill().unwrap();
        let said: Vec<_> = survivors.drain(..).flat_map(numbers).collect();
        assert_eq!(said, [1, 1]);
        let killed = children.remove(0).wait_with_output().unwrap();
        let left = ask(&here.open(SIZE), &limit(), "k", 0).remaining;
        let charged = 10_000_000 - left;
        assert!((2..=3).contains(&charged), "{charged} {:?}", String::from_utf8_lossy(&killed.stdout));
        assert_eq!(fs::metadata(here.path()).unwrap().len() % 4_096, 0);
    }
}

#[tokio::test]
async fn the_suite_is_green_while_others_count() {
    let here = Here::new("busy");
    let mut children = [start(&here, "count 1"), start(&here, "count 2")];
    children.iter_mut().for_each(let_go);
    let readers: Vec<_> = (children.iter_mut())
        .map(|child| {
            let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
            // They are at it by now.
            lines.by_ref().filter(|line| line.starts_with("said ")).take(10).for_each(drop);
            std::thread::spawn(move || lines.count())
        })
        .collect();
    let store = here.open(SIZE);
    let policy = policy("hammered", "1000/d", Algorithm::Gcra);
    let (passed, first, last) = conformance::hammer(&store, &policy, "k", 3_000).await;
    assert!(passed >= 1_000 && passed <= conformance::bound(&policy, first, last), "{passed}");
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    assert!(readers.into_iter().all(|reader| reader.join().unwrap() > 0));
}
