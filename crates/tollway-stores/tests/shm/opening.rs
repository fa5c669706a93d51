//! Who may open a segment, and what it must look like.

use std::fs;
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::Barrier;

use tollway_core::Algorithm;

use crate::here::{Here, ask, policy};

const SMALL: &str = "max_keys=100&tables=4";

fn refusal(here: &Here) -> String {
    here.try_open(SMALL).expect_err("must be refused").to_string()
}

/// Changes bytes of the file at a word.
fn poke(here: &Here, word: u64, bytes: &[u8]) {
    let mut file = fs::OpenOptions::new().write(true).open(here.path()).unwrap();
    file.seek(SeekFrom::Start(word * 16)).unwrap();
    file.write_all(bytes).unwrap();
}

#[test]
fn a_segment_is_for_its_owner_only() {
    let here = Here::new("owner");
    let store = here.open(SMALL);
    let meta = fs::metadata(store.path()).unwrap();
    assert_eq!((meta.mode() & 0o777, store.path()), (0o600, here.path().as_path()));
}

#[test]
fn state_stays_when_everybody_has_left() {
    let here = Here::new("stays");
    let limit = policy("p", "5/d", Algorithm::Gcra);
    for left in (0..5).rev() {
        assert_eq!(ask(&here.open(SMALL), &limit, "k", 1).remaining, left);
    }
    assert!(!ask(&here.open(SMALL), &limit, "k", 1).allowed);
}

#[test]
fn what_others_could_write_is_refused() {
    let here = Here::new("mode");
    drop(here.open(SMALL));
    fs::set_permissions(here.path(), fs::Permissions::from_mode(0o660)).unwrap();
    assert!(refusal(&here).contains("may be opened by others (mode 660"), "{}", refusal(&here));
    fs::set_permissions(here.path(), fs::Permissions::from_mode(0o600)).unwrap();
    let link = here.path().with_extension("second");
    fs::hard_link(here.path(), &link).unwrap();
    assert!(refusal(&here).contains("2 links"), "{}", refusal(&here));
    fs::remove_file(link).unwrap();
    here.open(SMALL);
}

#[test]
fn a_file_of_another_user_is_refused() {
    let here = Here::new("stranger");
    fs::write(here.path(), []).unwrap();
    fs::set_permissions(here.path(), fs::Permissions::from_mode(0o600)).unwrap();
    let me = fs::metadata(here.path()).unwrap().uid();
    if std::os::unix::fs::chown(here.path(), Some(me + 1), None).is_err() {
        // Only root can make a file another user's; then that user's is what we get here.
        assert_ne!(me, 0);
        return;
    }
    let error = refusal(&here);
    assert!(error.contains(&format!("belongs to user {}, and this process is user {me}", me + 1)), "{error}");
}

#[test]
fn a_link_is_not_followed() {
    let here = Here::new("link");
    let target = std::env::temp_dir().join(&here.name);
    symlink(&target, here.path()).unwrap();
    assert!(refusal(&here).contains("is a symbolic link"), "{}", refusal(&here));
    assert!(!target.exists());
}

#[test]
fn a_folder_is_refused() {
    let here = Here::new("folder");
    fs::create_dir(here.path()).unwrap();
    let error = refusal(&here);
    fs::remove_dir(here.path()).unwrap();
    assert!(error.contains("directory"), "{error}");
}

#[test]
fn what_is_no_segment_is_left_alone() {
    let here = Here::new("foreign");
    fs::write(here.path(), "somebody's notes").unwrap();
    fs::set_permissions(here.path(), fs::Permissions::from_mode(0o600)).unwrap();
    assert!(refusal(&here).contains("is not a segment of tollway"), "{}", refusal(&here));
    assert_eq!(fs::read_to_string(here.path()).unwrap(), "somebody's notes");
}

#[test]
fn another_layout_version_is_named_with_ours() {
    let here = Here::new("version");
    drop(here.open(SMALL));
    poke(&here, 1, &7_u64.to_le_bytes());
    assert!(refusal(&here).contains("has layout version 7, and this build has version 1"), "{}", refusal(&here));
}

#[test]
fn another_size_is_named_with_ours() {
    let here = Here::new("size");
    drop(here.open("max_keys=200&tables=4"));
    let error = refusal(&here);
    assert!(
        error.contains("max_keys=200 and tables=4, and this process asks for max_keys=104 and tables=4"),
        "{error}"
    );
    assert!(error.contains("remove the file"), "{error}");
}

#[test]
fn a_file_that_was_cut_is_refused() {
    let here = Here::new("cut");
    drop(here.open(SMALL));
    let whole = fs::metadata(here.path()).unwrap().len();
    fs::OpenOptions::new().write(true).open(here.path()).unwrap().set_len(whole - 4_096).unwrap();
    assert!(refusal(&here).contains(&format!("has {} bytes of {whole}", whole - 4_096)), "{}", refusal(&here));
}

#[test]
fn a_segment_of_another_time_namespace_is_refused() {
    let here = Here::new("times");
    drop(here.open(SMALL));
    let mut file = fs::File::open(here.path()).unwrap();
    file.seek(SeekFrom::Start(4 * 16 + 8)).unwrap();
    let mut there = [0; 8];
    file.read_exact(&mut there).unwrap();
    let other = u64::from_le_bytes(there) + 1;
    poke(&here, 4, &[&[0; 8], &other.to_le_bytes()[..]].concat());
    assert!(refusal(&here).contains(&format!("time namespace {other}")), "{}", refusal(&here));
}

#[test]
fn a_segment_of_another_boot_begins_anew() {
    let here = Here::new("boot");
    let limit = policy("p", "5/d", Algorithm::Gcra);
    let store = here.open(SMALL);
    while ask(&store, &limit, "k", 1).allowed {}
    drop(store);
    poke(&here, 3, &[7; 16]);
    // Neither its version nor its size matter then.
    poke(&here, 1, &9_u64.to_le_bytes());
    assert_eq!(ask(&here.open("max_keys=300&tables=2"), &limit, "k", 1).remaining, 4);
}

#[test]
fn whoever_died_while_making_it_is_followed_by_another() {
    let limit = policy("p", "5/d", Algorithm::Gcra);
    let whole = {
        let here = Here::new("whole");
        drop(here.open(SMALL));
        fs::read(here.path()).unwrap()
    };
    // As far as it may have come: nothing, a size, a mark, a part of the header.
    let unready = *b"\nydaernu yawllot";
    for (length, mark, header) in [(0, false, 0), (16, true, 0), (whole.len(), true, 0), (whole.len(), true, 5)] {
        let here = Here::new("half-made");
        let mut bytes = vec![0; length];
        if mark {
            bytes[..16].copy_from_slice(&unready);
        }
        bytes[16.min(length)..(16 + header * 16).min(length)]
            .copy_from_slice(&whole[16.min(length)..(16 + header * 16).min(length)]);
        fs::write(here.path(), bytes).unwrap();
        fs::set_permissions(here.path(), fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(ask(&here.open(SMALL), &limit, "k", 1).remaining, 4, "{length} {mark} {header}");
    }
}

#[test]
fn all_who_come_at_once_get_the_same_segment() {
    for _ in 0..30 {
        let here = Here::new("race");
        let limit = policy("p", "8/d", Algorithm::Gcra);
        let start = Barrier::new(8);
        let passed: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|_| {
                    scope.spawn(|| {
                        start.wait();
                        let store = here.open(SMALL);
                        (0..3).filter(|_| ask(&store, &limit, "k", 1).allowed).count()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(passed, 8);
    }
}

#[test]
fn a_lock_that_somebody_keeps_is_waited_for_and_named() {
    let here = Here::new("kept");
    drop(here.open(SMALL));
    let file = fs::OpenOptions::new().read(true).write(true).open(here.path()).unwrap();
    file.lock().unwrap();
    let error = refusal(&here);
    assert!(error.contains("within 5 s") && error.contains("stopped while it held the lock"), "{error}");
    file.unlock().unwrap();
    here.open(SMALL);
}
