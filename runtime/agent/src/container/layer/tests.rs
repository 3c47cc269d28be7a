//! Sizes and images. What needs root and loop devices is tested on real hosts, end to end.

use super::image::{blocks, copy, place};
use super::*;
use std::os::unix::fs::{FileExt, MetadataExt};

#[test]
fn an_image_has_room_for_the_disk_and_little_more() {
    for disk in [1_u64 << 20, 16 << 20, 512 << 20, 10 << 30, 1 << 40] {
        let length = length(Bytes(disk));
        let inodes = length / 32;
        let bitmaps = length.div_ceil(128 << 20) * 3 * 4096;
        let kept = (length / 50).min(16 << 20);
        let room = length - inodes - bitmaps - kept - (4 << 20);
        assert!(room >= disk, "{disk}: {room}");
        assert!(room < disk + disk / 100 + (12 << 20), "{disk}: {room}");
        assert_eq!(length % 4096, 0);
    }
}

#[test]
fn a_disk_beyond_all_bounds_does_not_overflow() {
    assert!(length(Bytes(u64::MAX)) > 1 << 62);
}

#[test]
fn a_copy_has_the_same_content_and_the_same_holes() {
    let dir = tempfile::tempdir().unwrap();
    let (source, target) = (dir.path().join("a"), dir.path().join("image"));
    let file = File::create(&source).unwrap();
    file.set_len(64 << 20).unwrap();
    file.write_all_at(b"first", 1024).unwrap();
    file.write_all_at(b"middle", 32 << 20).unwrap();
    place(&source, &dir.path().join("x"), &target).unwrap();
    assert!(std::fs::read(&source).unwrap() == std::fs::read(&target).unwrap());
    assert!(std::fs::metadata(&target).unwrap().blocks() * 512 < 1 << 20);
    assert!(!dir.path().join("image.draft").exists());
    copy(&source, &tempfile::tempfile().unwrap()).unwrap();
}

#[test]
fn a_file_without_a_file_system_is_told_from_an_empty_one() {
    let file = tempfile::tempfile().unwrap();
    file.set_len(1 << 20).unwrap();
    assert_eq!(
        blocks(&file).unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
    file.write_all_at(&[0x53, 0xef], 1024 + 0x38).unwrap();
    file.write_all_at(&7_u32.to_le_bytes(), 1024 + 4).unwrap();
    assert_eq!(blocks(&file).unwrap(), 7);
}

#[test]
fn a_container_says_how_its_disk_is_limited() {
    let disk = |n: u64| Bytes(n << 30);
    let image = Layer::Image {
        length: length(disk(2)),
    };
    let told = |layer: &Layer, n| {
        let fact = layer.fact(disk(n));
        (fact.status, fact.reason)
    };
    assert_eq!(told(&image, 2), (Some(true), "Enforced".into()));
    assert_eq!(told(&image, 1), (Some(true), "DoesNotShrink".into()));
    assert_eq!(told(&image, 3), (Some(true), "GrowsAtNextStart".into()));
    let directory = Layer::Directory {
        reason: "MadeWithoutLimit".into(),
        message: String::new(),
    };
    assert_eq!(
        told(&directory, 2),
        (Some(false), "MadeWithoutLimit".into())
    );
}

#[tokio::test]
async fn a_layer_that_exists_stays_what_it_is_and_a_failure_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let layers = Layers {
        paths: Paths::new(dir.path()),
        templates: dir.path().join("templates"),
        trouble: Some("no loop devices".into()),
    };
    let id = |name: &str| Id {
        namespace: "blue".into(),
        name: name.into(),
    };
    let made = layers.ensure(&id("new"), Bytes(1 << 30)).await.unwrap();
    assert!(matches!(&made, Layer::Directory { reason, .. } if reason == "NotPossibleHere"));
    assert_eq!(layers.fact().status, Some(false));

    let image = layers.paths.image(&id("old"));
    std::fs::create_dir_all(image.parent().unwrap()).unwrap();
    let file = File::create(&image).unwrap();
    file.set_len(length(Bytes(1 << 30))).unwrap();
    let grown = layers.ensure(&id("old"), Bytes(2 << 30)).await.unwrap();
    let expected = Layer::Image {
        length: length(Bytes(2 << 30)),
    };
    assert_eq!(grown, expected);
    let kept = layers.ensure(&id("old"), Bytes(1 << 30)).await.unwrap();
    assert_eq!(kept, expected);
}
