//! Fetching, against a server that only knows one archive.

use super::*;
use http::{Request, Response};
use kube::client::Body;
use std::convert::Infallible;
use std::sync::atomic::AtomicUsize;

async fn archive() -> Vec<u8> {
    let from = tempfile::tempdir().unwrap();
    std::fs::create_dir(from.path().join("etc")).unwrap();
    std::fs::write(from.path().join("etc/hostname"), "image").unwrap();
    let tar = crate::command::Command::new("tar")
        .arg("-C")
        .arg(from.path())
        .args(["-cf", "-", "./etc"]);
    tar.run().await.unwrap().into_bytes()
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    format!(
        "sha256:{}",
        hash.iter().map(|b| format!("{b:02x}")).collect::<String>()
    )
}

/// A client of a server that answers every request with `status` and `bytes`, and counts them.
fn server(status: u16, bytes: Vec<u8>) -> (kube::Client, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let service = tower::service_fn(move |_: Request<Body>| {
        count.fetch_add(1, Ordering::SeqCst);
        let response = Response::builder()
            .status(status)
            .body(Body::from(bytes.clone()))
            .unwrap();
        async move { Ok::<_, Infallible>(response) }
    });
    (kube::Client::new(service, "default"), asked)
}

/// Waits until nothing is being fetched any more.
async fn settled(images: &Arc<Images>, digest: &str) -> ImageState {
    let mut changed = images.changed();
    loop {
        match images.state(digest) {
            ImageState::Fetching(_) => changed.changed().await.unwrap(),
            state => return state,
        }
    }
}

fn left(root: &Path) -> Vec<String> {
    std::fs::read_dir(root)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect()
}

#[tokio::test]
async fn many_who_want_an_image_share_one_fetch() {
    let (root, bytes) = (tempfile::tempdir().unwrap(), archive().await);
    let digest = digest(&bytes);
    let (client, asked) = server(200, bytes);
    let images = Images::open("west-1", root.path().to_owned(), client).unwrap();
    assert_eq!(images.state(&digest), ImageState::Absent);
    for _ in 0..10 {
        images.fetch("debian", &digest);
    }
    assert_eq!(settled(&images, &digest).await, ImageState::Present);
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    assert_eq!(
        std::fs::read_to_string(images.rootfs(&digest).join("etc/hostname")).unwrap(),
        "image"
    );
    assert_eq!(images.present(), [digest]);
}

#[tokio::test]
async fn an_archive_with_another_digest_is_refused_and_leaves_nothing() {
    let (root, wanted) = (tempfile::tempdir().unwrap(), digest(b"other"));
    let (client, _) = server(200, archive().await);
    let images = Images::open("west-1", root.path().to_owned(), client).unwrap();
    images.fetch("debian", &wanted);
    let state = settled(&images, &wanted).await;
    assert!(
        matches!(&state, ImageState::Failed { reason, .. } if reason == "DigestMismatch"),
        "{state:?}"
    );
    assert_eq!(left(root.path()), [""; 0]);
}

#[tokio::test]
async fn a_server_that_refuses_is_quoted_and_asked_again_only_when_told() {
    let (root, wanted) = (tempfile::tempdir().unwrap(), digest(b"other"));
    let (client, asked) = server(403, vec![]);
    let images = Images::open("west-1", root.path().to_owned(), client).unwrap();
    images.fetch("debian", &wanted);
    let state = settled(&images, &wanted).await;
    assert!(
        matches!(&state, ImageState::Failed { reason, message, .. } if reason == "FetchFailed" && message.contains("403")),
        "{state:?}"
    );
    images.fetch("debian", &wanted);
    settled(&images, &wanted).await;
    assert_eq!(
        (asked.load(Ordering::SeqCst), left(root.path()).len()),
        (2, 0)
    );
}

#[tokio::test]
async fn what_a_killed_agent_left_half_unpacked_is_removed_at_the_start() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("new-abc/rootfs/etc")).unwrap();
    std::fs::create_dir_all(root.path().join("sha256-1/rootfs")).unwrap();
    let images = Images::open("west-1", root.path().to_owned(), server(200, vec![]).0).unwrap();
    assert_eq!(left(root.path()), ["sha256-1"]);
    assert_eq!(images.present(), ["sha256:1"]);
}

#[test]
fn an_image_that_does_not_fit_is_refused_before_a_byte_is_written() {
    assert_eq!(
        refuse_if_full("west-1", "debian", 100 << 20, 1 << 30),
        Ok(())
    );
    let refusal = refuse_if_full("west-1", "debian", 900 << 20, 1 << 30).unwrap_err();
    assert_eq!(refusal.reason, "DiskFull");
    assert!(
        ["west-1", "debian", "free some disk"].map(|w| refusal.message.contains(w)) == [true; 3],
        "{refusal}"
    );
    assert_eq!(refusal.room, Some(1156 << 20));
}

/// A file system that is full after so many files, whatever their size; unmounted when dropped.
struct Small(tempfile::TempDir);

impl Small {
    fn mount(files: u32) -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        this.run(
            "mount",
            &[
                "-t",
                "tmpfs",
                "-o",
                &format!("size=1g,nr_inodes={files}"),
                "skysail-test",
            ],
        );
        this
    }

    fn grow(&self, files: u32) {
        self.run("mount", &["-o", &format!("remount,nr_inodes={files}")]);
    }

    fn run(&self, program: &str, args: &[&str]) {
        let mut command = std::process::Command::new(program);
        assert!(
            command
                .args(args)
                .arg(self.0.path())
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let umount = std::process::Command::new("umount")
            .arg(self.0.path())
            .status();
        if !umount.is_ok_and(|s| s.success()) {
            eprintln!("{} stays mounted", self.0.path().display());
        }
    }
}

#[tokio::test]
async fn a_disk_that_fills_while_an_image_unpacks_keeps_no_half_and_takes_it_when_there_is_room() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: mounting needs root");
        return;
    }
    let (disk, bytes) = (Small::mount(4), archive().await);
    let digest = digest(&bytes);
    let (client, _) = server(200, bytes);
    let images = Images::open("west-1", disk.0.path().to_owned(), client).unwrap();
    images.fetch("debian", &digest);
    let state = settled(&images, &digest).await;
    assert!(
        matches!(&state, ImageState::Failed { reason, message, .. } if reason == "DiskFull" && message.contains("west-1") && message.contains("debian")),
        "{state:?}"
    );
    assert_eq!(left(disk.0.path()), [""; 0], "half an image is left");

    disk.grow(100);
    images.fetch("debian", &digest);
    assert_eq!(settled(&images, &digest).await, ImageState::Present);
}

#[tokio::test]
async fn images_that_are_gone_from_the_api_and_in_no_use_are_removed() {
    let root = tempfile::tempdir().unwrap();
    for name in ["used", "listed", "gone"] {
        std::fs::create_dir_all(root.path().join(format!("sha256-{name}/rootfs/etc"))).unwrap();
    }
    let list = serde_json::json!({
        "apiVersion": "skysail.dev/v1alpha1", "kind": "ImageList", "metadata": {},
        "items": [{
            "apiVersion": "skysail.dev/v1alpha1", "kind": "Image", "metadata": { "name": "a" },
            "spec": {}, "status": { "digest": "sha256:listed" },
        }],
    });
    let (client, _) = server(200, list.to_string().into_bytes());
    let images = Images::open("west-1", root.path().join("."), client).unwrap();
    let used = || std::collections::BTreeSet::from(["sha256:used".to_owned()]);
    images.tidy(&used, Timestamp::now()).await;
    assert_eq!(left(root.path()).len(), 3, "they were just made");
    let later = Timestamp::now() + evict::RESTED + evict::RESTED;
    let aged = std::time::SystemTime::UNIX_EPOCH;
    for name in ["used", "listed", "gone"] {
        let directory = std::fs::File::open(root.path().join(format!("sha256-{name}"))).unwrap();
        directory.set_modified(aged).unwrap();
    }
    images.tidy(&used, later).await;
    let mut names = left(root.path());
    names.sort();
    let total_is_short = evict::Space::of(
        crate::usage::machine::disk(root.path()).0,
        crate::usage::machine::disk(root.path()).1,
    ) == evict::Space::Short;
    if !total_is_short {
        assert_eq!(names, ["sha256-listed", "sha256-used"]);
    }
    assert!(names.contains(&"sha256-used".to_owned()));
}
