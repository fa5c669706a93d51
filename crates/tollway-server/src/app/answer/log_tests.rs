use std::fs;
use std::path::Path;

use http::{Method, Uri};
use proptest::prelude::*;

use super::*;

const OK: StatusCode = StatusCode::OK;
const REFUSED: StatusCode = StatusCode::TOO_MANY_REQUESTS;

fn line(uri: &'static str, headers: Vec<(Field, HeaderValue)>) -> Line {
    let client = "192.0.2.7".parse().ok();
    Line { started: Instant::now(), request: Some((Method::GET, Uri::from_static(uri))), client, headers }
}

fn outcome(status: StatusCode, millis: u64) -> Outcome<'static> {
    Outcome {
        status,
        size: Some(12),
        duration: Duration::from_millis(millis),
        id: None,
        refused: status == StatusCode::TOO_MANY_REQUESTS,
    }
}

fn kept(path: &Path, capacity: usize, refusals: u32) -> Arc<AccessLog> {
    let target = LogTarget::File(path.to_owned());
    Arc::new(AccessLog::new(LogSpec { target, format: LogFormat::Text, capacity, refusals }).unwrap())
}

fn rule(log: &Arc<AccessLog>, sample: f64, min: u64, skip: Vec<u16>) -> LogRule {
    LogRule::new(Arc::clone(log), vec![Field::Status, Field::Path], sample, Duration::from_millis(min), skip)
}

/// What a log holds after `write` and an orderly end.
fn written(capacity: usize, refusals: u32, write: impl FnOnce(&Arc<AccessLog>)) -> (Vec<String>, u64) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    let log = kept(&path, capacity, refusals);
    write(&log);
    log.start().unwrap();
    log.close();
    let lines = fs::read_to_string(&path).unwrap().lines().map(str::to_owned).collect();
    (lines, log.dropped())
}

#[test]
fn lines_are_written_in_order() {
    let (lines, dropped) = written(4096, 9, |log| {
        let rule = rule(log, 1.0, 0, vec![]);
        rule.log(&line("/a", vec![]), &outcome(OK, 1));
        rule.log(&line("/b", vec![]), &outcome(StatusCode::NOT_FOUND, 1));
    });
    assert_eq!((lines.as_slice(), dropped), (["\"/a\" 200", "\"/b\" 404"].map(String::from).as_slice(), 0));
}

#[test]
fn a_full_buffer_drops_and_says_how_many() {
    let (lines, dropped) = written(20, 9, |log| {
        let rule = rule(log, 1.0, 0, vec![]);
        for _ in 0..5 {
            rule.log(&line("/a", vec![]), &outcome(OK, 1));
        }
    });
    assert_eq!((lines.len(), dropped), (3, 3));
    assert!(lines[2].ends_with("WARNING 3 lines dropped: the log was not written in time"), "{lines:?}");
}

#[test]
fn lines_that_cannot_be_written_are_counted_and_told_of_later() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("access.log");
    // A device that is always full.
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let log = kept(&path, 4096, 9);
    let rule = rule(&log, 1.0, 0, vec![]);
    log.start().unwrap();
    let end = Instant::now() + Duration::from_secs(20);
    for number in 1..=2 {
        rule.log(&line("/a", vec![]), &outcome(OK, 1));
        while log.dropped() < number {
            assert!(Instant::now() < end, "nobody says that a line was lost");
            thread::sleep(Duration::from_millis(1));
        }
    }
    fs::remove_file(&path).unwrap();
    rule.log(&line("/b", vec![]), &outcome(OK, 1));
    log.close();
    let text = fs::read_to_string(&path).unwrap();
    let (line, told) = text.trim_end().split_once('\n').unwrap();
    assert_eq!((line, log.dropped()), ("\"/b\" 200", 2));
    assert!(told.ends_with("WARNING 2 lines lost: they could not be written: no storage space"), "{told}");
}

#[test]
fn a_flood_of_refusals_is_a_few_lines_and_a_count() {
    let (lines, dropped) = written(4096, 2, |log| {
        let rule = rule(log, 1.0, 0, vec![]);
        let refused = line("/a", vec![]);
        for _ in 0..100 {
            rule.log(&refused, &outcome(REFUSED, 0));
        }
        rule.log(&refused, &outcome(OK, 0));
    });
    assert_eq!((lines.len(), dropped), (4, 0));
    assert!(lines[3].ends_with("WARNING 98 more refusals"), "{lines:?}");
}

#[test]
fn refusals_are_counted_anew_in_the_next_span() {
    let start = Instant::now();
    let mut refusals = Refusals::default();
    assert!(refusals.admit(1, start));
    assert!(refusals.admit(1, start + SPAN));
    assert!(!refusals.admit(1, start + SPAN));
    // The count of those left out is reported before a new span begins.
    assert!(!refusals.admit(1, start + SPAN * 3));
    assert_eq!(refusals.skipped, 2);
}

#[test]
fn quick_answers_and_most_of_the_others_can_be_left_out_and_errors_cannot() {
    let (lines, _) = written(4096, 9, |log| {
        let rule = rule(log, 0.25, 10, vec![204]);
        for _ in 0..8 {
            rule.log(&line("/quick", vec![]), &outcome(OK, 9));
            rule.log(&line("/slow", vec![]), &outcome(OK, 10));
        }
        rule.log(&line("/none", vec![]), &outcome(StatusCode::NO_CONTENT, 99));
        rule.log(&line("/broken", vec![]), &outcome(StatusCode::BAD_GATEWAY, 0));
    });
    assert_eq!(lines, ["\"/slow\" 200", "\"/slow\" 200", "\"/broken\" 502"]);
}

#[test]
fn a_moved_file_is_followed_by_a_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let (path, moved) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
    let mut sink = Sink::open(&LogTarget::File(path.clone())).unwrap();
    sink.write(b"one\n").unwrap();
    fs::rename(&path, &moved).unwrap();
    sink.write(b"two\n").unwrap();
    assert_eq!((fs::read(&moved).unwrap(), fs::read(&path).unwrap()), (b"one\n".to_vec(), b"two\n".to_vec()));
}

#[test]
fn a_place_that_cannot_be_written_is_known_at_once() {
    let target = LogTarget::File("/proc/no/such/log".into());
    let spec = LogSpec { target, format: LogFormat::Text, capacity: 1, refusals: 1 };
    assert_eq!(AccessLog::new(spec).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn times_are_written_as_rfc_3339() {
    let mut stamp = Stamp::default();
    assert_eq!(stamp.at(Duration::from_millis(1_000_000_000_042)), "2001-09-09T01:46:40.042Z");
    assert_eq!(stamp.at(Duration::from_millis(1_000_000_000_999)), "2001-09-09T01:46:40.999Z");
    assert_eq!(stamp.at(Duration::from_millis(1_000_000_001_000)), "2001-09-09T01:46:41.000Z");
}

proptest! {
    /// Whatever clients send, a line is one line, and a JSON line reads as what was sent.
    #[test]
    fn clients_cannot_forge_lines(agent in proptest::collection::vec(prop_oneof![Just(b'\t'), 32..=126_u8, 128..=255_u8], 0..40)) {
        let headers = vec![(Field::UserAgent, HeaderValue::from_bytes(&agent).unwrap())];
        let line = line("/a?q=%22", headers);
        let mut out = Vec::new();
        for format in [LogFormat::Text, LogFormat::Json] {
            out.clear();
            line.write(format, &Field::ALL, &outcome(OK, 1), "T", &mut out);
            prop_assert_eq!(out.iter().filter(|&&b| b == b'\n').count(), 1);
            prop_assert!(out.iter().all(|&b| b >= b' ' || b == b'\n'));
        }
        let read: serde_json::Value = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(read["user_agent"].as_str().unwrap(), String::from_utf8_lossy(&agent));
        prop_assert_eq!(&read["query"], "q=%22");
        prop_assert_eq!(&read["client_ip"], "192.0.2.7");
    }
}
