//! A primary, a replica and three sentinels.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::cluster::info;
use super::{Redis, free_port};

/// What they watch.
pub const SERVICE: &str = "tollway";
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Watched {
    pub primary: Redis,
    pub replica: Redis,
    sentinels: Vec<(Child, u16)>,
    dir: PathBuf,
}

impl Watched {
    /// Starts them and waits until a failover could succeed.
    pub fn start() -> Self {
        let primary = Redis::start_with(&["--repl-diskless-sync-delay", "0"]);
        let port = primary.port().to_string();
        let replica = Redis::start_with(&["--replicaof", "127.0.0.1", &port]);
        let dir = replica.socket().with_file_name("sentinels");
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        let mut watched = Self { primary, replica, sentinels: Vec::new(), dir };
        for _ in 0..3 {
            watched.add_sentinel();
        }
        wait("the replica is synchronous", || {
            info(&watched.replica, "INFO", "replication").contains("master_link_status:up")
        });
        for (_, port) in &watched.sentinels {
            wait("the sentinel listens", || ask(*port, &["PING"]).is_ok());
            // Every second instead of every ten; servers before 7.0 do not know it, and take longer.
            let _ = ask(*port, &["SENTINEL", "DEBUG", "INFO-PERIOD", "1000", "PUBLISH-PERIOD", "1000"]);
        }
        for (_, port) in &watched.sentinels {
            wait("each sentinel knows the others and the replica", || {
                let found = ask(*port, &["SENTINEL", "MASTER", SERVICE]).unwrap_or_default();
                let is = |name: &str, value: &str| found.chunks(2).any(|pair| pair == [name, value]);
                is("num-other-sentinels", "2") && is("num-slaves", "1") && is("flags", "master")
            });
        }
        watched
    }

    fn add_sentinel(&mut self) {
        let port = free_port();
        let file = self.dir.join(format!("{port}.conf"));
        let text = format!(
            "port {port}\nbind 127.0.0.1\ndir {}\nsentinel monitor {SERVICE} 127.0.0.1 {} 2\n\
             sentinel down-after-milliseconds {SERVICE} 1000\nsentinel failover-timeout {SERVICE} 3000\n",
            self.dir.display(),
            self.primary.port()
        );
        std::fs::write(&file, text).expect("a file");
        let mut command = Command::new("redis-server");
        command.arg(&file).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        self.sentinels.push((command.spawn().expect("redis-server runs"), port));
    }

    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.sentinels.iter().map(|(_, port)| format!("127.0.0.1:{port}")).collect();
        format!("redis+sentinel://{}/{SERVICE}", hosts.join(","))
    }

    /// Kills one of the sentinels, the first that the URL names.
    pub fn kill_a_sentinel(&mut self) {
        let child = &mut self.sentinels[0].0;
        let _ = child.kill();
        let _ = child.wait();
    }

    /// Has the sentinels make the replica the primary, with both alive, and waits until both agree.
    pub fn fail_over(&self) {
        let mut asked = None::<Instant>;
        wait("the replica is the primary", || {
            let roles = [role(&self.replica), role(&self.primary)];
            // A busy machine may let a failover's time run out; nobody begins another by himself.
            if roles[0] == "slave" && asked.is_none_or(|at| at.elapsed() > Duration::from_secs(5)) {
                let _ = ask(self.sentinels[2].1, &["SENTINEL", "FAILOVER", SERVICE]);
                asked = Some(Instant::now());
            }
            roles == ["master", "slave"]
        });
    }
}

/// Whether a server says that it is a master or a slave.
pub fn role(server: &Redis) -> String {
    let info = info(server, "INFO", "replication");
    let line = info.lines().find_map(|line| line.strip_prefix("role:"));
    line.unwrap_or_default().trim().to_owned()
}

impl Drop for Watched {
    fn drop(&mut self) {
        for (child, _) in &mut self.sentinels {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn ask(port: u16, words: &[&str]) -> redis::RedisResult<Vec<String>> {
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}"))?;
    let mut connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
    let answer: redis::Value = redis::cmd(words[0]).arg(&words[1..]).query(&mut connection)?;
    Ok(redis::from_redis_value(answer).unwrap_or_default())
}

/// Waits for something to become true, not for ever.
pub fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
