//! Real MariaDB servers for tests.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// How long a server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running MariaDB server, with its data in a folder of its own.
pub struct MariaDb {
    dir: PathBuf,
    port: u16,
    settings: Vec<String>,
    child: Child,
}

impl MariaDb {
    /// Starts one that waits for no disk, with a database `shop`.
    pub fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("tollway-mariadb-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        if is_root() {
            must(Command::new("chown").arg("mysql").arg(&dir));
        }
        must(
            program("mariadb-install-db")
                .arg(format!("--datadir={}", dir.join("data").display()))
                // Several at once would meet in the system's folder for temporary tables.
                .arg(format!("--tmpdir={}", dir.display()))
                .args(user())
                .args(["--no-defaults", "--auth-root-authentication-method=normal", "--skip-test-db"])
                .args(["--skip-name-resolve", "--innodb-flush-method=nosync"]),
        );
        let mut last = String::new();
        // A free port may be taken by somebody else before the server binds it.
        for _ in 0..5 {
            let port = free_port();
            let mut server = Self { child: spawn(&dir, port, &[]), dir: dir.clone(), port, settings: Vec::new() };
            match server.wait_until_ready() {
                Ok(()) => {
                    server.sql("CREATE DATABASE IF NOT EXISTS shop");
                    return server;
                }
                Err(why) => last = why,
            }
            let _ = server.child.kill();
            let _ = server.child.wait();
            std::mem::forget(server);
        }
        panic!("MariaDB does not start: {last}");
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        self.dir.join("s")
    }

    /// The URL of its database.
    pub fn url(&self) -> String {
        format!("mysql://root@127.0.0.1:{}/shop", self.port)
    }

    /// Runs SQL past the store and returns what it prints, columns separated by tabs.
    pub fn sql(&self, text: &str) -> String {
        self.try_sql(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn try_sql(&self, text: &str) -> Result<String, String> {
        let socket = format!("--socket={}", self.socket().display());
        let mut command = program("mariadb");
        command.args(["--no-defaults", &socket, "-u", "root", "-N", "-B", "-e", &text.replace(" key ", " `key` ")]);
        if !text.starts_with("CREATE DATABASE") {
            command.args(["-D", "shop"]);
        }
        let output = command.output().map_err(|error| error.to_string())?;
        match output.status.success() {
            true => Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned()),
            false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
        }
    }

    /// Kills it without warning.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Starts it again with what it had.
    pub fn restart(&mut self) {
        self.kill();
        self.child = spawn(&self.dir, self.port, &self.settings);
        self.wait_until_ready().expect("MariaDB starts again");
    }

    /// Starts it again with more settings, such as `--ssl-cert=…`.
    pub fn restart_with(&mut self, settings: &[String]) {
        self.settings = settings.to_vec();
        self.restart();
    }

    /// Lends the server a file that it may read, and nobody else.
    pub fn lend(&self, path: &str) -> String {
        let copy = self.dir.join(Path::new(path).file_name().expect("a file"));
        must(Command::new("install").args(["-m", "600"]).arg(path).arg(&copy));
        if is_root() {
            must(Command::new("chown").arg("mysql").arg(&copy));
        }
        copy.display().to_string()
    }

    /// Stops it from running, without closing anything.
    pub fn freeze(&self) {
        super::still::stand_still(&self.child.id().to_string());
    }

    /// Lets it run again.
    pub fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, name: &str) {
        let _ = Command::new("kill").args([name, &self.child.id().to_string()]).stderr(Stdio::null()).status();
    }

    fn wait_until_ready(&mut self) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let log = || std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("it ended with {status}: {}", log()));
            }
            match self.try_sql("CREATE DATABASE IF NOT EXISTS shop") {
                Ok(_) => return Ok(()),
                Err(error) if Instant::now() > end => return Err(format!("{error}: {}", log())),
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        self.thaw();
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The server refuses to run as root.
fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

fn user() -> Option<&'static str> {
    is_root().then_some("--user=mysql")
}

fn spawn(dir: &Path, port: u16, settings: &[String]) -> Child {
    let log = std::fs::File::create(dir.join("log")).expect("a log");
    program("mariadbd")
        .arg("--no-defaults")
        .args(user())
        .arg(format!("--datadir={}", dir.join("data").display()))
        .arg(format!("--tmpdir={}", dir.display()))
        .arg(format!("--socket={}", dir.join("s").display()))
        .arg(format!("--pid-file={}", dir.join("pid").display()))
        .arg(format!("--port={port}"))
        .args(["--bind-address=127.0.0.1", "--skip-name-resolve", "--innodb-flush-method=nosync"])
        .args(["--innodb-flush-log-at-trx-commit=0", "--innodb-buffer-pool-size=16M", "--skip-log-bin"])
        .args(settings)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .unwrap_or_else(|error| panic!("mariadbd does not run ({error}): {INSTALL}"))
}

const INSTALL: &str = "install MariaDB with `apt-get install -y mariadb-server`";

/// A program of the server; Debian keeps some where only root's path leads.
fn program(name: &str) -> Command {
    let own = PathBuf::from("/usr/sbin").join(name);
    Command::new(if own.exists() { own } else { name.into() })
}

fn must(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| panic!("{command:?} does not run ({error}): {INSTALL}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A port that nobody listens on.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}
