//! A cluster of six nodes: three primaries, each with a replica.

use std::process::{Command, Stdio};

use super::Redis;
use super::sentinel::wait;

pub struct Nodes(pub Vec<Redis>);

impl Nodes {
    /// Starts them and waits until every slot is served and every replica in step.
    pub fn start() -> Self {
        let node = |_| {
            let cluster = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"];
            Redis::start_with(&[&cluster[..], &["--repl-diskless-sync-delay", "0"]].concat())
        };
        let nodes = Self((0..6).map(node).collect());
        let places = nodes.0.iter().map(|node| format!("127.0.0.1:{}", node.port()));
        let mut create = Command::new("redis-cli");
        create.args(["--cluster", "create"]).args(places).args(["--cluster-replicas", "1", "--cluster-yes"]);
        let output = create.stdin(Stdio::null()).output();
        let output = output.unwrap_or_else(|error| panic!("redis-cli does not run ({error}): install redis-tools"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        wait("every node serves all slots with three replicas in step", || {
            let states: Vec<String> = nodes.0.iter().map(|node| info(node, "CLUSTER", "INFO")).collect();
            let links: Vec<String> = nodes.0.iter().map(|node| info(node, "INFO", "replication")).collect();
            let up = links.iter().filter(|text| text.contains("master_link_status:up")).count();
            let known = nodes.0.iter().map(|node| info(node, "CLUSTER", "NODES"));
            let three = known.into_iter().all(|text| text.matches("slave").count() == 3);
            up == 3 && three && states.iter().all(|text| text.contains("cluster_state:ok"))
        });
        nodes
    }

    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.0[..3].iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }

    /// The number of the node that has a slot, as the living ones among them say.
    pub fn owner(&self, slot: u16) -> Option<usize> {
        self.0.iter().position(|node| {
            let Ok(client) = redis::Client::open(node.url()) else { return false };
            let Ok(mut connection) = client.get_connection_with_timeout(std::time::Duration::from_secs(2)) else {
                return false;
            };
            let text: String = redis::cmd("CLUSTER").arg("NODES").query(&mut connection).unwrap_or_default();
            text.lines().filter(|line| line.contains("myself,master")).any(|line| {
                line.split(' ').skip(8).filter(|word| !word.starts_with('[')).any(|word| {
                    let (first, last) = word.split_once('-').unwrap_or((word, word));
                    let read = |text: &str| text.parse::<u16>().unwrap_or(u16::MAX);
                    (read(first)..=read(last)).contains(&slot)
                })
            })
        })
    }

    /// A node's name for itself.
    pub fn id(&self, number: usize) -> String {
        redis::cmd("CLUSTER").arg("MYID").query(&mut self.0[number].connection()).unwrap()
    }

    /// The slot of a key, as a server counts it.
    pub fn slot(&self, key: &str) -> u16 {
        redis::cmd("CLUSTER").arg("KEYSLOT").arg(key).query(&mut self.0[0].connection()).unwrap()
    }
}

/// What a server says of itself; nothing when it cuts the connection, as it does in a failover.
pub fn info(node: &Redis, command: &str, argument: &str) -> String {
    let ask = || -> redis::RedisResult<String> {
        let client = redis::Client::open(node.url())?;
        let mut connection = client.get_connection_with_timeout(std::time::Duration::from_secs(5))?;
        redis::cmd(command).arg(argument).query(&mut connection)
    };
    ask().unwrap_or_default()
}
