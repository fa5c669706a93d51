//! Bad URLs and servers that say no: each with its message.

use tollway_core::{Algorithm, Store, StoreErrorKind};
use tollway_stores::sql::{SqlOptions, SqlStore};

use super::postgres::{self, Postgres};
use super::{check, open, patient, policy};

#[tokio::test]
async fn what_cannot_work_is_refused_when_it_is_opened() {
    let open = |url: &str, options: SqlOptions| {
        SqlStore::open(url, options, &tokio::runtime::Handle::current()).unwrap_err().to_string()
    };
    for (url, part) in [
        ("postgres://localhost/shop", "names no user"),
        ("postgres://me:hunter2@/shop", "names no host"),
        ("postgres://me:hunter2@localhost/shop?sslmode=maybe", "sslmode=maybe"),
        ("postgres://me:hunter2@localhost/shop?ssl=1", "\"ssl\""),
        ("oracle://me:hunter2@localhost/shop", "another scheme"),
    ] {
        let error = open(url, SqlOptions::default());
        assert!(error.contains(part) && !error.contains("hunter2"), "{error}");
    }
    let url = "postgres://me@localhost/shop";
    let none = std::time::Duration::ZERO;
    for (options, part) in [
        (SqlOptions { prefix: "a{b".into(), ..SqlOptions::default() }, "prefix \"a{b\""),
        (SqlOptions { command_timeout: none, ..SqlOptions::default() }, "command_timeout"),
        (SqlOptions { queue: 0, ..SqlOptions::default() }, "queue is 0"),
        (SqlOptions { connections: 100, ..SqlOptions::default() }, "use 1 to 64"),
    ] {
        let error = open(url, options);
        assert!(error.contains(part), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_says_why_it_refuses() {
    let server = Postgres::start();
    server.demand_password("locked");
    server.sql("CREATE USER locked PASSWORD 'hunter2'; CREATE USER guest; CREATE TABLE other_states (id int)");
    server.sql("CREATE USER reader; ALTER USER reader SET default_transaction_read_only = on");
    server.sql("GRANT CREATE ON SCHEMA public TO reader");
    let place = |user: &str, rest: &str| format!("postgres://{user}@127.0.0.1:{}/{rest}", server.port());
    let nobody = postgres::free_port();
    use StoreErrorKind::{Misconfigured, Unavailable};
    for (url, kind, part) in [
        (format!("postgres://rl@127.0.0.1:{nobody}/postgres"), Unavailable, "nothing listens"),
        ("postgres://rl@nowhere.invalid/postgres".to_owned(), Unavailable, "host name right"),
        (place("locked:wrong", "postgres"), Misconfigured, "wrong user name or password"),
        (place("locked", "postgres"), Misconfigured, "wants a password"),
        (place("rl", "nothing"), Misconfigured, "no such database"),
        (place("rl", "postgres?table=nothing.states"), Misconfigured, "CREATE SCHEMA"),
        (place("rl", "postgres?table=other_states"), Misconfigured, "another program's"),
        (place("guest", "postgres"), Misconfigured, "GRANT"),
        (place("reader", "postgres"), Unavailable, "name the primary"),
    ] {
        let store = open(&url, patient());
        let error = store.ping().await.unwrap_err();
        assert_eq!(error.kind, kind, "{url}: {error}");
        assert!(error.detail.contains(part) && !error.to_string().contains("wrong@"), "{url}: {error}");
    }
    let five = policy("p", "5/h", Algorithm::Gcra);
    server.sql("GRANT CREATE ON SCHEMA public TO locked");
    let store = open(&place("locked:hunter2", "postgres?table=theirs"), patient());
    assert_eq!(check(&store, &five, "k", 1).await.unwrap().remaining, 4);
    assert!(store.name().contains("locked:***@"), "{}", store.name());
}
