//! Real PostgreSQL servers for tests.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A running PostgreSQL server, with its data in a folder of its own.
pub struct Postgres {
    dir: PathBuf,
    port: u16,
}

impl Postgres {
    /// Starts one that waits for no disk.
    pub fn start() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("tollway-postgres-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        hand_over(&dir);
        let data = dir.join("data");
        must(as_postgres("initdb").arg("-D").arg(&data).args([
            "-A",
            "trust",
            "-U",
            "rl",
            "--no-sync",
            "-E",
            "UTF8",
            "--locale=C",
        ]));
        let mut lines = String::from("listen_addresses = '127.0.0.1'\nfsync = off\nmax_connections = 50\n");
        lines += &format!("unix_socket_directories = '{}'\n", dir.display());
        std::fs::write(dir.join("settings"), lines).expect("settings");
        let include = format!("\ninclude = '{}'\n", dir.join("settings").display());
        let mut config = std::fs::read_to_string(data.join("postgresql.conf")).expect("the configuration");
        config += &include;
        std::fs::write(data.join("postgresql.conf"), config).expect("the configuration");
        let mut last = String::new();
        // A free port may be taken by somebody else before the server binds it.
        for _ in 0..5 {
            let server = Self { dir: dir.clone(), port: free_port() };
            let output = server.pg_ctl("start");
            if output.status.success() {
                return server;
            }
            last = std::fs::read_to_string(dir.join("log")).unwrap_or_default();
            std::mem::forget(server);
        }
        panic!("PostgreSQL does not start: {last}");
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The folder of its socket.
    pub fn folder(&self) -> &Path {
        &self.dir
    }

    /// The URL of its database.
    pub fn url(&self) -> String {
        format!("postgres://rl@127.0.0.1:{}/postgres", self.port)
    }

    /// Runs SQL past the store and returns what it prints, columns separated by `|`.
    pub fn sql(&self, text: &str) -> String {
        let output = Command::new("psql")
            .args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "rl", "-d", "postgres"])
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-c", text])
            .output()
            .expect("psql runs");
        assert!(output.status.success(), "{text}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// From now on this user needs a password.
    pub fn demand_password(&self, user: &str) {
        let path = self.dir.join("data/pg_hba.conf");
        let rules = std::fs::read_to_string(&path).expect("the rules");
        std::fs::write(&path, format!("host all {user} 127.0.0.1/32 scram-sha-256\n{rules}")).expect("the rules");
        self.sql("SELECT pg_reload_conf()");
    }

    /// Lends the server a file that it may read, and nobody else.
    pub fn lend(&self, path: &str) -> String {
        let name = Path::new(path).file_name().expect("a file");
        let copy = self.dir.join(name);
        must(Command::new("install").args(["-m", "600"]).arg(path).arg(&copy));
        if is_root() {
            must(Command::new("chown").arg("postgres").arg(&copy));
        }
        copy.display().to_string()
    }

    /// Takes on more settings, `name=value`.
    pub fn set(&self, settings: &[String]) {
        for setting in settings {
            let (name, value) = setting.split_once('=').expect("name=value");
            self.sql(&format!("ALTER SYSTEM SET {name} = '{value}'"));
        }
        self.sql("SELECT pg_reload_conf()");
    }

    /// Kills it without warning.
    pub fn kill(&self) {
        self.pg_ctl_stop("immediate");
    }

    /// Starts it again with what it had.
    pub fn restart(&self) {
        let output = self.pg_ctl("start");
        let log = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        assert!(output.status.success(), "PostgreSQL starts again: {log}");
    }

    /// Stops all its processes from running, without closing anything.
    pub fn freeze(&self) {
        self.each(super::still::stand_still);
    }

    /// Lets them run again.
    pub fn thaw(&self) {
        self.each(|process| {
            let _ = Command::new("kill").args(["-CONT", process]).stderr(Stdio::null()).status();
        });
    }

    fn each(&self, act: impl Fn(&str)) {
        let Some(main) = self.pid() else { return };
        // First, since it makes the others and buries them: none comes or goes while it stands still.
        act(&main);
        // They are its children, each in a session of its own.
        let children = Command::new("pgrep").args(["-P", &main]).output().expect("pgrep runs");
        String::from_utf8_lossy(&children.stdout).split_whitespace().for_each(act);
    }

    fn pid(&self) -> Option<String> {
        let file = std::fs::read_to_string(self.dir.join("data/postmaster.pid")).ok()?;
        file.lines().next().map(str::to_owned)
    }

    fn pg_ctl(&self, what: &str) -> Output {
        let port = format!("-p {}", self.port);
        let mut command = as_postgres("pg_ctl");
        command.arg("-D").arg(self.dir.join("data")).args(["-w", "-t", "60", "-o", &port, "-l"]);
        // The server keeps what it inherits open, so nothing may be piped.
        command.arg(self.dir.join("log")).arg(what).stdout(Stdio::null()).stderr(Stdio::null());
        let status = command.stdin(Stdio::null()).status().expect("pg_ctl runs");
        Output { status, stdout: Vec::new(), stderr: Vec::new() }
    }

    fn pg_ctl_stop(&self, mode: &str) {
        let mut command = as_postgres("pg_ctl");
        command.arg("-D").arg(self.dir.join("data")).args(["-w", "-m", mode, "stop"]);
        let _ = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.thaw();
        self.pg_ctl_stop("immediate");
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

/// The server refuses to run as root.
fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

fn hand_over(dir: &Path) {
    if is_root() {
        must(Command::new("chown").arg("postgres").arg(dir));
    }
}

/// A program of the server, as a user that it accepts; Debian keeps it off the path.
fn as_postgres(program: &str) -> Command {
    let path = program_path(program);
    if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--"]).arg(path).current_dir("/");
        return command;
    }
    Command::new(path)
}

fn program_path(program: &str) -> PathBuf {
    let debian = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = debian.map(|version| version.path().join("bin").join(program)).collect();
    found.retain(|path| path.exists());
    found.sort();
    found.pop().unwrap_or_else(|| program.into())
}

fn must(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| {
        panic!("{command:?} does not run ({error}): install PostgreSQL with `apt-get install -y postgresql`")
    });
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// A port that nobody listens on.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port()
}
