//! Certificates for tests, made by openssl.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

const CURVE: [&str; 5] = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];

/// An authority and what it signed, in a folder of its own.
pub struct Certificates {
    dir: PathBuf,
}

impl Certificates {
    /// An authority with a server's certificate `server.pem`, an expired one `old.pem`, one for
    /// another host `other.pem`, and a client's `client.pem`, each with its `.key`; `stranger.pem` is
    /// another authority.
    pub fn make() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("tollway-tls-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("a temporary directory");
        let made = Self { dir };
        for name in ["ca", "stranger"] {
            let (key, pem, subject) = (format!("{name}.key"), format!("{name}.pem"), format!("/CN={name}"));
            let files = ["-keyout", &key, "-out", &pem, "-subj", &subject, "-days", "2"];
            made.openssl(&[&["req", "-x509"], &CURVE[..], &files].concat());
        }
        for (name, host, days) in [
            ("server", "IP:127.0.0.1,DNS:localhost", "2"),
            ("old", "IP:127.0.0.1", "-1"),
            ("other", "DNS:elsewhere.example", "2"),
            ("client", "DNS:client.example", "2"),
        ] {
            made.sign(name, host, days);
        }
        made
    }

    fn sign(&self, name: &str, host: &str, days: &str) {
        let [key, request, pem, rules] = ["key", "csr", "pem", "ext"].map(|end| format!("{name}.{end}"));
        let text = format!("subjectAltName={host}\nbasicConstraints=CA:FALSE\n");
        std::fs::write(self.dir.join(&rules), text).expect("a file");
        let files = ["-keyout", &key, "-out", &request, "-subj", "/CN=tollway"];
        self.openssl(&[&["req", "-new"], &CURVE[..], &files].concat());
        let authority = ["-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial"];
        let output = ["-extfile", &rules, "-days", days, "-out", &pem];
        self.openssl(&[&["x509", "-req", "-in", &request], &authority[..], &output].concat());
    }

    fn openssl(&self, arguments: &[&str]) {
        let output = Command::new("openssl").args(arguments).current_dir(&self.dir).output();
        let output = output.unwrap_or_else(|error| panic!("openssl does not run ({error}): install it"));
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// A file's path.
    pub fn path(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// What makes `redis-server` speak TLS on `port` with the certificate `name`.
    pub fn arguments(&self, name: &str, port: u16, clients: &str) -> Vec<String> {
        let words = [
            ("tls-port", port.to_string()),
            ("tls-cert-file", self.path(&format!("{name}.pem"))),
            ("tls-key-file", self.path(&format!("{name}.key"))),
            ("tls-ca-cert-file", self.path("ca.pem")),
            ("tls-auth-clients", clients.to_owned()),
        ];
        words.into_iter().flat_map(|(name, value)| [format!("--{name}"), value]).collect()
    }
}

impl Drop for Certificates {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(Path::new(&self.dir));
    }
}
