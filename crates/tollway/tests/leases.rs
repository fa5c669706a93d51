//! Permits taken in advance: what they save, and what they may never do.

mod remote;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use tollway::{
    Algorithm, Bucket, Charge, Clock, FailMode, Leak, LeaseSettings, Leases, Limiter, ManualClock, NearCache, Policy,
    Request, Store, StoreErrorKind, Timestamp, conformance,
};
use tollway_stores::SystemClock;

use remote::{Remote, ask, policy};

const MS: u64 = 1_000_000;
const HOLD: u64 = 1_000 * MS;

struct Bench {
    remote: Arc<Remote>,
    clock: Arc<ManualClock>,
}

impl Bench {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(Timestamp::from_secs(1_700_000_000)));
        Self { remote: Remote::new(clock.clone(), StoreErrorKind::Timeout), clock }
    }

    /// One process, and what keeps its watch alive without running it.
    fn process(&self, permits: u32) -> (Arc<Leases>, impl Sized + use<>) {
        let settings = LeaseSettings { permits, hold: Duration::from_nanos(HOLD) };
        let leases = Leases::with_clock(self.remote.clone(), settings, self.clock.clone());
        let watch = leases.watch();
        (Arc::new(leases), watch)
    }

    async fn left(&self, policy: &Arc<Policy>) -> u32 {
        ask(&*self.remote, policy, "k", 0).await.unwrap().remaining
    }
}

#[tokio::test]
async fn a_hot_key_is_asked_for_once_a_lease() {
    let bench = Bench::new();
    let (leases, _watch) = bench.process(50);
    let policy = policy("1000/h");
    let mut passed = 0;
    let mut last = 1_000;
    for _ in 0..800 {
        let decision = ask(&*leases, &policy, "k", 1).await.unwrap();
        passed += u32::from(decision.allowed);
        assert_eq!(decision.remaining, last - 1, "what is left is told as if each were asked for");
        assert!(decision.limit == 1_000 && decision.cost == 1 && !decision.degraded);
        last = decision.remaining;
    }
    assert_eq!(passed, 800);
    assert!(bench.remote.asked() <= 800 / 50 + 2, "{} round trips", bench.remote.asked());
}

#[tokio::test]
async fn near_the_limit_every_permit_is_there_for_whoever_asks() {
    for permits in [2, 10, 50, 500] {
        let bench = Bench::new();
        let (leases, _watch) = bench.process(permits);
        let policy = policy("100/h");
        let mut passed = 0;
        for _ in 0..150 {
            passed += u32::from(ask(&*leases, &policy, "k", 1).await.unwrap().allowed);
        }
        assert_eq!(passed, 100, "leases of {permits}");
    }
}

#[tokio::test]
async fn no_more_than_half_of_what_is_left_is_taken() {
    let bench = Bench::new();
    let (leases, _watch) = bench.process(100);
    let policy = policy("20/w");
    for held in [0, 9] {
        assert!(ask(&*leases, &policy, "k", 1).await.unwrap().allowed);
        assert_eq!(leases.held(), held);
    }
    assert_eq!(bench.left(&policy).await, 9, "for the others");
}

#[tokio::test]
async fn a_key_that_is_not_hot_is_charged_what_it_costs() {
    let bench = Bench::new();
    let (leases, _watch) = bench.process(10);
    let policy = policy("1000/w");
    for used in 1..=5 {
        assert!(ask(&*leases, &policy, "k", 1).await.unwrap().allowed);
        assert_eq!(bench.left(&policy).await, 1_000 - used);
        bench.clock.advance(HOLD + 1);
        leases.sweep().await.unwrap();
    }
    assert_eq!(leases.held(), 0);
}

#[tokio::test]
async fn what_is_not_handed_out_in_time_is_given_back() {
    let bench = Bench::new();
    let (leases, _watch) = bench.process(10);
    let policy = policy("1000/d");
    for _ in 0..3 {
        assert!(ask(&*leases, &policy, "k", 1).await.unwrap().allowed);
    }
    assert_eq!((bench.left(&policy).await, leases.held()), (989, 8));
    bench.clock.advance(HOLD - 1);
    leases.sweep().await.unwrap();
    assert_eq!(leases.held(), 8, "not before its time");
    bench.clock.advance(1);
    let asked = bench.remote.asked();
    assert!(ask(&*leases, &policy, "k", 1).await.unwrap().allowed);
    assert_eq!(bench.remote.asked(), asked + 1, "not a moment later is one handed out");
    leases.sweep().await.unwrap();
    assert_eq!((bench.left(&policy).await, leases.held()), (996, 0));
}

#[tokio::test]
async fn a_reset_forgets_what_is_held() {
    let bench = Bench::new();
    let (leases, _watch) = bench.process(10);
    let policy = policy("1000/h");
    for _ in 0..3 {
        assert!(ask(&*leases, &policy, "k", 1).await.unwrap().allowed);
    }
    // One that is on its way when the reset comes.
    let charges = [Charge { policy: &policy, key: "k", cost: 1 }];
    for _ in 0..8 {
        assert!(ask(&*leases, &policy, "k", 1).await.unwrap().allowed);
    }
    let on_its_way = leases.apply(&[Request { charges: &charges, peek: false }]);
    leases.reset(&policy, "k").await.unwrap();
    on_its_way.await.unwrap();
    assert_eq!(leases.held(), 0);
    assert_eq!(bench.left(&policy).await, 1_000);
    leases.give_back().await.unwrap();
    assert_eq!(bench.left(&policy).await, 1_000);
}

#[tokio::test]
async fn a_reset_by_prefix_forgets_what_is_held_of_its_keys() {
    let bench = Bench::new();
    let (leases, _watch) = bench.process(10);
    let policy = policy("1000/h");
    for key in ["org-1/a", "org-2/a"] {
        for _ in 0..2 {
            assert!(ask(&*leases, &policy, key, 1).await.unwrap().allowed);
        }
    }
    assert_eq!(leases.held(), 18);
    // Whether the backend can do it or not, what is held here is not handed out afterwards.
    let again = Arc::new(Policy::new("p", "1000/h", Algorithm::Gcra).unwrap());
    let _ = leases.reset_prefix(&again, "org-1/").await;
    assert_eq!(leases.held(), 9);
}

#[tokio::test]
async fn what_is_held_outlives_the_store() {
    let bench = Bench::new();
    let (leases, _watch) = bench.process(10);
    let policy = policy("1000/w");
    for _ in 0..2 {
        assert!(ask(&*leases, &policy, "k", 1).await.unwrap().allowed);
    }
    bench.remote.away.store(true, Ordering::SeqCst);
    for left in (0..9).rev() {
        let decision = ask(&*leases, &policy, "k", 1).await.unwrap();
        assert!(decision.allowed && !decision.degraded && leases.held() == left, "it was charged before");
    }
    assert!(ask(&*leases, &policy, "k", 1).await.is_err());
    bench.remote.away.store(false, Ordering::SeqCst);
    assert_eq!(bench.left(&policy).await, 989);
    for _ in 0..2 {
        assert!(ask(&*leases, &policy, "k", 1).await.unwrap().allowed);
    }
    assert!(leases.held() > 0);
    bench.remote.away.store(true, Ordering::SeqCst);
    bench.clock.advance(HOLD);
    leases.sweep().await.unwrap_err();
    bench.remote.away.store(false, Ordering::SeqCst);
    assert_eq!((leases.held(), bench.left(&policy).await), (0, 979), "it stays charged");
}

#[tokio::test]
async fn a_watch_gives_back_by_itself_and_at_the_end() {
    let remote = Remote::new(Arc::new(SystemClock::new()), StoreErrorKind::Timeout);
    let settings = LeaseSettings { permits: 10, hold: Duration::from_millis(20) };
    let policy = policy("1000/d");
    let left = async || ask(&*remote, &policy, "k", 0).await.unwrap().remaining;
    let leases = Leases::new(remote.clone(), settings);
    let watch = tokio::spawn(leases.watch());
    let spent = async |leases: &Leases| {
        let before = left().await;
        loop {
            assert!(ask(leases, &policy, "k", 1).await.unwrap().allowed);
            if leases.held() > 0 {
                return before;
            }
        }
    };
    spent(&leases).await;
    let end = Instant::now() + Duration::from_secs(20);
    while leases.held() > 0 {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let before = spent(&leases).await;
    drop(leases);
    watch.await.unwrap();
    assert!(before - left().await <= 4, "what was held is there again");
}

#[tokio::test]
async fn nothing_is_leased_without_a_watch() {
    let bench = Bench::new();
    let (leases, watch) = bench.process(10);
    drop(watch);
    let policy = policy("1000/h");
    for _ in 0..20 {
        assert!(ask(&*leases, &policy, "k", 1).await.unwrap().allowed);
    }
    assert_eq!((bench.remote.asked(), leases.held()), (20, 0));
}

#[tokio::test]
async fn only_plain_requests_are_served_from_a_lease() {
    let bench = Bench::new();
    let (leases, _watch) = bench.process(10);
    let (policy, other) = (policy("1000/h"), policy("500/m"));
    let queue = Arc::new(Policy::new("queue", "1000/h", Algorithm::LeakyBucket(Leak::Queue)).unwrap());
    let bucket = |bucket| Policy::new("bucket", "1000/h", Algorithm::TokenBucket).unwrap().with_bucket(bucket).unwrap();
    let dear = Arc::new(bucket(Bucket { per_request: 2, ..Bucket::default() }));
    for _ in 0..3 {
        assert!(ask(&*leases, &policy, "k", 1).await.unwrap().allowed);
    }
    assert!(leases.held() > 0);
    let one = Charge { policy: &policy, key: "k", cost: 1 };
    let several = [one, Charge { policy: &other, key: "k2", cost: 1 }];
    let asks: [(&[Charge<'_>], bool); 3] = [(&[one], true), (&several, false), (&[Charge { cost: 6, ..one }], false)];
    for (charges, peek) in asks {
        let (asked, held) = (bench.remote.asked(), leases.held());
        let request = Request { charges, peek };
        assert!(leases.apply_now(&request).is_none());
        leases.apply(&[request]).await.unwrap();
        assert_eq!((bench.remote.asked(), leases.held()), (asked + 1, held), "{request:?}");
    }
    let (asked, held) = (bench.remote.asked(), leases.held());
    let ones = [one];
    let batch = [Request { charges: &ones, peek: false }; 2];
    assert_eq!(leases.apply(&batch).await.unwrap().len(), 2);
    for _ in 0..5 {
        assert!(ask(&*leases, &queue, "k", 1).await.unwrap().allowed);
        assert!(ask(&*leases, &dear, "k", 1).await.unwrap().allowed);
    }
    assert_eq!((bench.remote.asked(), leases.held()), (asked + 11, held));
}

#[tokio::test]
async fn settings_that_cannot_work_are_named() {
    let hold = Duration::from_secs(1);
    for (wrong, word) in [
        (LeaseSettings { permits: 1, hold }, "at least 2"),
        (LeaseSettings { permits: 0, hold }, "not 0"),
        (LeaseSettings { permits: 10, hold: Duration::ZERO }, "1 ms to 1 h"),
    ] {
        assert!(wrong.checked().unwrap_err().to_string().contains(word));
    }
}

#[tokio::test]
async fn leases_that_nobody_watches_conform() {
    let remote = Remote::new(Arc::new(SystemClock::new()), StoreErrorKind::Timeout);
    let leases = Leases::new(remote, LeaseSettings { permits: 2, hold: Duration::from_millis(1) });
    conformance::run(Arc::new(leases), "leases").await;
}

#[test]
fn on_many_threads_no_more_is_held_than_a_lease_and_no_more_passes_than_the_limit() {
    let remote = Remote::new(Arc::new(SystemClock::new()), StoreErrorKind::Timeout);
    let settings = LeaseSettings { permits: 20, hold: Duration::from_secs(60) };
    let leases = Arc::new(Leases::new(remote, settings));
    let _watch = leases.watch();
    let store: Arc<dyn Store> = Arc::new(NearCache::new(leases.clone(), Duration::from_secs(60)));
    let limiter = Limiter::new(store, FailMode::Closed);
    let (policy, passed) = (policy("10000/d"), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
                for _ in 0..2_000 {
                    let charges = [Charge { policy: &policy, key: "k", cost: 1 }];
                    let decision = runtime.block_on(limiter.check(&charges)).unwrap();
                    passed.fetch_add(u32::from(decision.allowed), Ordering::Relaxed);
                }
            });
        }
    });
    // Who is refused while another thread takes the last lease is believed from then on: what is left
    // of that lease stays where it is.
    let held = leases.held() as u32;
    assert!(held < 20, "{held} are held");
    assert_eq!(passed.load(Ordering::Relaxed) + held, 10_000, "asked 16000 times within a second or two");
}

/// What happens at random: who asks for how much, and how much time passes before.
fn steps() -> impl Strategy<Value = Vec<(usize, u32, u64, bool)>> {
    prop::collection::vec((0..4_usize, 1..4_u32, 0..400_u64, prop::bool::weighted(0.1)), 1..300)
}

proptest! {
    #[test]
    fn in_any_span_no_more_passes_than_the_limits_admit_and_what_was_held(
        steps in steps(), permits in 2..30_u32, rates in prop::sample::select(vec!["20/10s", "50/5s", "30/2s burst 10"]),
        algorithm in prop::sample::select(vec![Algorithm::Gcra, Algorithm::TokenBucket])
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let bench = Bench::new();
        let processes: Vec<_> = (0..4).map(|_| bench.process(permits)).collect();
        let policy = Arc::new(Policy::new("p", rates, algorithm).unwrap());
        let limit = &policy.limits()[0];
        // What passed, when, and what all of them held just before.
        let mut passed: Vec<(Timestamp, u64, u64)> = Vec::new();
        for (process, cost, wait, sweeps) in steps {
            bench.clock.advance(wait * MS);
            let leases = &processes[process].0;
            if sweeps {
                runtime.block_on(leases.sweep()).unwrap();
            }
            let held: u64 = processes.iter().map(|(leases, _)| leases.held()).sum();
            prop_assert!(processes.iter().all(|(leases, _)| leases.held() <= u64::from(permits)));
            let plain = runtime.block_on(ask(&*bench.remote, &policy, "k", 0)).unwrap();
            let decision = runtime.block_on(ask(&**leases, &policy, "k", cost)).unwrap();
            if decision.allowed {
                passed.push((bench.clock.now(), u64::from(cost), held));
            } else {
                prop_assert!(plain.remaining < cost, "refused though {} were left", plain.remaining);
            }
        }
        for first in 0..passed.len() {
            let (start, _, held) = passed[first];
            let mut sum = 0;
            for (end, cost, _) in &passed[first..] {
                sum += cost;
                let span = u128::from(end.since(start));
                let earned = (span * u128::from(limit.permits()) / u128::from(limit.period())) as u64;
                prop_assert!(sum <= u64::from(limit.capacity()) + earned + held, "{sum} in {span} ns, {held} held");
            }
        }
    }
}
