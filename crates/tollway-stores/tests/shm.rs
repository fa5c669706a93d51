//! `shm://` on a real segment: what it promises, to one process and to many.

mod model;

#[path = "shm/here.rs"]
mod here;
#[path = "shm/opening.rs"]
mod opening;
#[path = "shm/processes.rs"]
mod processes;
#[path = "shm/rates.rs"]
mod rates;
#[path = "shm/steps.rs"]
mod steps;

#[tokio::test]
async fn conforms() {
    let here = here::Here::new("conforms");
    let store = here.open("max_keys=1000&tables=1024");
    tollway_core::conformance::run(std::sync::Arc::new(store), "shm").await;
}
