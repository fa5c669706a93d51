//! Real servers for tests: on free ports, in temporary directories, gone afterwards.
#![allow(dead_code, reason = "each test binary uses its part")]

pub mod certificates;
pub mod cluster;
pub mod sentinel;
pub mod still;

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running `redis-server`.
pub struct Redis {
    child: Child,
    program: String,
    dir: PathBuf,
    port: u16,
    arguments: Vec<String>,
}

impl Redis {
    /// Starts one.
    pub fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with more arguments.
    pub fn start_with(arguments: &[&str]) -> Self {
        Self::start_program("redis-server", arguments)
    }

    /// Starts a program that takes the same arguments.
    pub fn start_program(program: &str, arguments: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let arguments: Vec<String> = arguments.iter().map(ToString::to_string).collect();
        let mut last = String::new();
        // A free port may be taken by somebody else before the server binds it.
        for _ in 0..5 {
            let number = COUNT.fetch_add(1, Ordering::Relaxed);
            let dir = std::env::temp_dir().join(format!("tollway-redis-{}-{number}", std::process::id()));
            std::fs::create_dir_all(&dir).expect("a temporary directory");
            let port = free_port();
            let child = spawn(program, &dir, port, &arguments);
            let mut server = Self { child, program: program.to_owned(), dir, port, arguments: arguments.clone() };
            match server.wait_until_ready() {
                Ok(()) => return server,
                Err(why) => last = why,
            }
        }
        panic!("{program} does not start: {last}");
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// Its Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("redis.sock")
    }

    /// A plain connection, past the store. A server that changes its role drops its clients, also
    /// one that is just arriving.
    pub fn connection(&self) -> redis::Connection {
        let client = redis::Client::open(self.url()).expect("a legal URL");
        let end = Instant::now() + Duration::from_secs(10);
        loop {
            match client.get_connection_with_timeout(Duration::from_secs(5)) {
                Ok(connection) => return connection,
                Err(error) if Instant::now() > end => panic!("the server answers: {error}"),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    /// Kills it without warning and waits for its end.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again, empty, on the same port.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.program, &self.dir, self.port, &self.arguments);
        self.wait_until_ready().expect("redis-server starts again");
    }

    /// Stops it from running without closing anything.
    pub fn freeze(&self) {
        still::stand_still(&self.child.id().to_string());
    }

    /// Lets it run again.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        let status = Command::new("kill").args([name, &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success(), "kill {name}");
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        let client = redis::Client::open(self.url()).expect("a legal URL");
        loop {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("it ended with {status} on port {}", self.port));
            }
            // An error that the server itself sends (it wants a password) is an answer too.
            let answer = client.get_connection_with_timeout(Duration::from_secs(1));
            match answer.and_then(|mut connection| redis::cmd("PING").exec(&mut connection)) {
                Ok(()) => return Ok(()),
                Err(error) if error.code().is_some_and(|code| code != "LOADING") => return Ok(()),
                Err(error) if Instant::now() > end => return Err(error.to_string()),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        }
    }

    fn stop(&mut self) {
        self.thaw_quietly();
        self.kill();
    }

    fn thaw_quietly(&self) {
        let _ = Command::new("kill").args(["-CONT", &self.child.id().to_string()]).stderr(Stdio::null()).status();
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.stop();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn spawn(program: &str, dir: &PathBuf, port: u16, arguments: &[String]) -> Child {
    let mut command = Command::new(program);
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"])
        .args(["--unixsocket", "redis.sock", "--dir"])
        .arg(dir)
        .args(arguments)
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command.spawn().unwrap_or_else(|error| {
        panic!("{program} does not run ({error}): install it with `apt-get install -y redis-server`")
    })
}

/// The programs beside `redis-server` to be tested, which `TOLLWAY_REDIS_SERVERS` names as `PATH` does folders.
pub fn editions() -> Vec<String> {
    let named = std::env::var("TOLLWAY_REDIS_SERVERS").unwrap_or_default();
    named.split(':').filter(|program| !program.is_empty()).map(str::to_owned).collect()
}

/// A port that nobody listens on, nor 10 000 above, where a node of a Cluster talks to the others.
pub fn free_port() -> u16 {
    loop {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("its address").port();
        if port.checked_add(10_000).is_some_and(|bus| TcpListener::bind(("127.0.0.1", bus)).is_ok()) {
            return port;
        }
    }
}
