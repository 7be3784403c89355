use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use tempfile::TempDir;

use super::*;

/// A kubelet's folder with one Pod's volume.
struct Place {
    root: TempDir,
}

impl Place {
    fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        fs::create_dir_all(root.path().join(PARENT)).unwrap();
        Self { root }
    }

    fn path(&self) -> PathBuf {
        self.root.path().join(PARENT).join("mount")
    }

    fn target(&self) -> Target {
        let path = self.path();
        Target::open(self.root.path(), path.to_str().unwrap(), Some("u")).unwrap().unwrap()
    }

    fn publish(&self, files: &Files) -> bool {
        publish(&self.target(), Storage::Folder, files, Readers::All).unwrap()
    }
}

const PARENT: &str = "pods/u/volumes/kubernetes.io~csi/v";

fn files(list: &[(&str, &str)]) -> Files {
    let mut files = Files::default();
    for (name, content) in list {
        files.put(name, *content);
    }
    files
}

/// What a Pod sees: names that do not begin with two dots, and what they hold.
fn seen(path: &Path) -> BTreeMap<String, String> {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().file_name());
    let names = names.map(|name| name.into_string().unwrap());
    let visible = names.filter(|name| !name.starts_with(".."));
    visible.map(|name| (name.clone(), fs::read_to_string(path.join(&name)).unwrap())).collect()
}

fn generations(path: &Path) -> usize {
    let names = fs::read_dir(path).unwrap().map(|entry| entry.unwrap());
    names.filter(|entry| entry.file_type().unwrap().is_dir()).count()
}

#[test]
fn a_volume_holds_what_it_was_given_last_and_is_written_only_when_that_changes() {
    let place = Place::new();
    assert!(!is_published(&place.target(), Storage::Folder));
    assert!(place.publish(&files(&[("a", "1"), (".env", "x")])));
    assert!(!place.publish(&files(&[("a", "1"), (".env", "x")])));
    assert!(is_published(&place.target(), Storage::Folder));
    assert!(place.publish(&files(&[("a", "2"), ("b", "3")])));
    let expected = [("a", "2"), ("b", "3")].map(|(name, text)| (name.to_owned(), text.to_owned()));
    assert_eq!(seen(&place.path()), BTreeMap::from(expected));
    assert_eq!(generations(&place.path()), 2, "the one before stays");
    assert!(place.publish(&files(&[("a", "4")])));
    assert_eq!(generations(&place.path()), 2);
    unpublish(&place.target()).unwrap();
    assert!(!place.path().exists());
    unpublish(&place.target()).unwrap();
}

#[test]
fn files_are_for_reading_by_everybody_or_by_one_group() {
    let place = Place::new();
    let mode = |name: &str| {
        let found = fs::metadata(place.path().join(name)).unwrap();
        (found.permissions().mode() & 0o777, found.gid())
    };
    place.publish(&files(&[("a", "1")]));
    assert_eq!(mode("a").0, 0o444);
    assert_eq!(mode("..data").0, 0o555);
    let own = rustix::process::getgid().as_raw();
    let given = files(&[("a", "1")]);
    let again = publish(&place.target(), Storage::Folder, &given, Readers::Group(own)).unwrap();
    assert!(again, "another mode is another volume");
    assert_eq!(mode("a"), (0o440, own));
    assert_eq!(mode("..data"), (0o550, own));
    assert_eq!(mode("").0, 0o750);
}

#[test]
fn what_a_dead_process_left_is_finished_or_cleared_away() {
    let place = Place::new();
    place.publish(&files(&[("a", "1"), ("b", "1")]));
    let path = place.path();
    // It died while it wrote a generation, before the link, and while it made links.
    fs::create_dir(path.join("..7")).unwrap();
    fs::write(path.join("..7/a"), "half").unwrap();
    std::os::unix::fs::symlink("..7", path.join("..data_tmp")).unwrap();
    fs::remove_file(path.join("b")).unwrap();
    assert!(place.publish(&files(&[("a", "1"), ("b", "1")])), "a name is missing");
    assert_eq!(seen(&path).len(), 2);
    assert!(place.publish(&files(&[("a", "2"), ("b", "2")])));
    assert_eq!(seen(&path)["b"], "2");
    assert_eq!(generations(&path), 2);
    assert!(!path.join("..data_tmp").exists());
    unpublish(&place.target()).unwrap();
    assert!(!path.exists());
    // It died before anything was in the folder.
    fs::create_dir(&path).unwrap();
    unpublish(&place.target()).unwrap();
    assert!(!path.exists());
}

#[test]
fn a_link_in_the_place_of_a_generation_or_of_the_volume_leads_nowhere() {
    let place = Place::new();
    let outside = tempfile::tempdir().unwrap();
    fs::write(outside.path().join("a"), "precious").unwrap();
    place.publish(&files(&[("a", "1")]));
    fs::remove_file(place.path().join("..data")).unwrap();
    std::os::unix::fs::symlink(outside.path(), place.path().join("..data")).unwrap();
    assert!(place.publish(&files(&[("a", "2")])));
    assert_eq!(seen(&place.path())["a"], "2");
    unpublish(&place.target()).unwrap();
    std::os::unix::fs::symlink(outside.path(), place.path()).unwrap();
    assert!(publish(&place.target(), Storage::Folder, &files(&[]), Readers::All).is_err());
    assert!(unpublish(&place.target()).is_err());
    assert_eq!(fs::read_to_string(outside.path().join("a")).unwrap(), "precious");
}

#[test]
fn a_reader_never_sees_half_a_file_nor_none() {
    let place = Place::new();
    let set = |number: usize| {
        let text = format!("{number:08}").repeat(1000);
        files(&[("a", &text), ("b", &text)])
    };
    place.publish(&set(0));
    let ended = AtomicBool::new(false);
    let reads = [const { AtomicUsize::new(0) }; 3];
    thread::scope(|scope| {
        for count in &reads {
            scope.spawn(|| {
                while !ended.load(Ordering::Relaxed) {
                    for name in ["a", "..data/b"] {
                        let text = fs::read_to_string(place.path().join(name)).unwrap();
                        assert_eq!(text.len(), 8000);
                        let first = &text.as_bytes()[..8];
                        assert!(text.as_bytes().chunks(8).all(|part| part == first));
                    }
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        for number in 1..100 {
            let before = reads.each_ref().map(|count| count.load(Ordering::Relaxed));
            assert!(place.publish(&set(number)));
            // Changes are minutes apart; here no reader lives through two of them.
            while reads
                .iter()
                .zip(before)
                .any(|(count, before)| count.load(Ordering::Relaxed) == before)
            {
                thread::yield_now();
            }
        }
        ended.store(true, Ordering::Relaxed);
    });
}

#[test]
fn memory_is_mounted_once_bounded_and_gone_afterwards() {
    let place = Place::new();
    let target = place.target();
    let given = files(&[("a", "1")]);
    match publish(&target, Storage::Memory, &given, Readers::All) {
        Err(Refusal::Io(_, cause)) if cause.kind() == io::ErrorKind::PermissionDenied => return,
        tried => assert!(tried.unwrap()),
    }
    assert!(!publish(&target, Storage::Memory, &given, Readers::All).unwrap());
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let path = place.path();
    let lines: Vec<_> =
        mounts.lines().filter(|line| line.contains(path.to_str().unwrap())).collect();
    assert_eq!(lines.len(), 1, "{lines:?}");
    for option in ["nosuid", "nodev", "noexec", "size=6144k", "tmpfs"] {
        assert!(lines[0].contains(option), "{option}: {}", lines[0]);
    }
    assert!(is_published(&target, Storage::Memory));
    assert!(!is_published(&target, Storage::Memory) || seen(&path)["a"] == "1");
    unpublish(&target).unwrap();
    assert!(!path.exists());
    assert!(!fs::read_to_string("/proc/self/mountinfo").unwrap().contains(path.to_str().unwrap()));
}
