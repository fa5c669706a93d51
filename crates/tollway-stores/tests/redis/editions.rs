//! Older and newer Redis, and Valkey: `TOLLWAY_REDIS_SERVERS` names their programs.

use tollway_core::conformance;

use super::servers::{self, Redis};
use super::{adjust, faults, model, open, patient};

#[tokio::test(flavor = "multi_thread")]
async fn every_edition_counts_alike() {
    let editions = servers::editions();
    if editions.is_empty() {
        println!("no other servers: name them with TOLLWAY_REDIS_SERVERS=$(python -m tests.editions)");
    }
    let tasks: Vec<_> =
        editions.into_iter().map(|program| (tokio::spawn(counts_alike(program.clone())), program)).collect();
    for (task, program) in tasks {
        task.await.unwrap_or_else(|error| panic!("{program}: {error}"));
    }
}

async fn counts_alike(program: String) {
    let mut server = Redis::start_program(&program, &[]);
    conformance::run(open(&server.url(), patient()), "edition").await;
    model::random_states_agree(&server, 300).await;
    adjust::every_algorithm_agrees(&server, 100).await;
    faults::lost_scripts_go_unseen(&server).await;
    faults::dies_and_is_found_again(&mut server).await;
}
