//! Two openings of one segment, as two processes have them, agree with the pure function.

use proptest::prelude::*;
use tollway_core::{Clock, ManualClock};

use crate::here::{Here, START};
use crate::model::{Step, agree, any_step, nine_policies};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn every_sequence_agrees_with_the_pure_function(steps in prop::collection::vec(any_step(), 1..120)) {
        let here = Here::still("steps");
        let (one, two) = (here.open("max_keys=500&tables=10"), here.open("max_keys=500&tables=10"));
        let mut policies = nine_policies();
        // Its numbers do not fit a word.
        policies.remove(7);
        // The clock that processes share never goes back.
        let steps: Vec<_> = steps.into_iter().filter(|step| !matches!(step, Step::Move { ns } if *ns < 0)).collect();
        agree(&[&one, &two], here.clock.as_ref().unwrap(), &policies, &steps, true)?;
    }
}

#[test]
fn the_clock_of_all_processes_is_the_time_of_day() {
    let here = Here::new("clock");
    let store = here.open("");
    let policy = crate::here::policy("p", "5/m", tollway_core::Algorithm::Gcra);
    let wall = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let at = crate::here::ask(&store, &policy, "k", 1).at.nanos();
    assert!(at.abs_diff(wall.as_nanos() as u64) < 5_000_000_000);
    assert_ne!(ManualClock::new(START).now().nanos(), at);
}
