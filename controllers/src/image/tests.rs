//! Laws of the Image controller, and archives as they come.

use super::{
    build::Cache,
    plan::{self, Archive, Observed, Plan, Progress},
};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use skysail_reconcile::{Error, Next};
use skysail_schemas::{
    Image, ImageSpec, ImageStatus,
    condition::is_true,
    image::{DebianRecipe, Tarball},
};
use std::process::Command;

fn image() -> Image {
    let debian = DebianRecipe {
        suite: "trixie".into(),
        packages: vec!["systemd".into()],
        run: vec!["echo 'it'\"s\" >/x".into()],
    };
    let mut image = Image::new(
        "debian",
        ImageSpec {
            debian: Some(debian),
            ..ImageSpec::default()
        },
    );
    image.metadata.generation = Some(1);
    image
}

fn archive() -> Archive {
    Archive {
        digest: "sha256:ab".into(),
        size: 7,
    }
}

fn turn(
    image: &Image,
    observed: &Observed,
    report: Result<(), Error>,
) -> (ImageStatus, Next, Plan) {
    let plan = plan::plan(image, observed);
    let outcome = plan::status(image, observed, &plan, &report, Timestamp::UNIX_EPOCH);
    (outcome.status, outcome.next, plan)
}

#[test]
fn an_image_is_built_placed_and_then_left_alone_though_the_cache_is_wiped() {
    let mut image = image();
    let (status, next, plan) = turn(&image, &Observed::default(), Ok(()));
    assert_eq!(plan, Plan::Build);
    assert!(!is_true(&status.conditions, "Ready") && matches!(next, Next::After(_)));

    let running = Observed {
        progress: Some(Progress::Running("installing".into())),
        ..Observed::default()
    };
    let (status, _, plan) = turn(&image, &running, Ok(()));
    assert_eq!(
        (plan, status.conditions[0].message.as_str()),
        (Plan::Nothing, "installing")
    );

    let built = Observed {
        cached: Some(archive()),
        ..Observed::default()
    };
    let (status, next, plan) = turn(&image, &built, Ok(()));
    assert_eq!(
        (plan, next, status.digest.as_deref()),
        (Plan::Place(archive()), Next::OnChange, Some("sha256:ab"))
    );
    assert!(is_true(&status.conditions, "Ready"));

    image.status = Some(status.clone());
    let (after, next, plan) = turn(
        &image,
        &Observed {
            placed: true,
            ..Observed::default()
        },
        Ok(()),
    );
    assert_eq!((plan, next, after), (Plan::Nothing, Next::OnChange, status));

    image.metadata.generation = Some(2);
    assert_eq!(
        plan::plan(
            &image,
            &Observed {
                placed: true,
                ..Observed::default()
            }
        ),
        Plan::Build,
        "a changed spec is built"
    );
}

#[test]
fn a_lost_archive_is_placed_again_and_a_failed_build_says_why() {
    let mut image = image();
    let (status, ..) = turn(
        &image,
        &Observed {
            cached: Some(archive()),
            ..Observed::default()
        },
        Ok(()),
    );
    image.status = Some(status);
    assert_eq!(
        plan::plan(
            &image,
            &Observed {
                cached: Some(archive()),
                ..Observed::default()
            }
        ),
        Plan::Place(archive())
    );

    let failed = Observed {
        progress: Some(Progress::Failed(Error::Transient(
            "No space left on device".into(),
        ))),
        ..Observed::default()
    };
    let (status, next, plan) = turn(&self::image(), &failed, Ok(()));
    assert_eq!((plan, next), (Plan::Again, Next::Retry));
    let built = &status.conditions[0];
    assert_eq!(
        (built.reason.as_str(), built.message.as_str()),
        ("BuildFailed", "No space left on device")
    );
}

#[test]
fn an_archive_goes_with_the_last_image_that_names_it() {
    let mut image = image();
    image.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
    image.status = Some(ImageStatus {
        digest: Some("sha256:ab".into()),
        ..ImageStatus::default()
    });
    let seen = |shared| Observed {
        placed: true,
        shared,
        ..Observed::default()
    };
    assert_eq!(plan::plan(&image, &seen(true)), Plan::Nothing);
    assert_eq!(turn(&image, &seen(false), Ok(())).1, Next::Finished);
    assert_eq!(
        turn(&image, &seen(false), Err(Error::Transient("busy".into()))).1,
        Next::Retry
    );
}

#[test]
fn a_command_of_the_recipe_is_one_word_for_the_shell() {
    let image = image();
    let args = plan::arguments(image.spec.debian.as_ref().unwrap());
    let hook = args
        .iter()
        .find(|a| a.contains("chroot"))
        .unwrap()
        .trim_start_matches("--customize-hook=");
    let script = hook.replace("chroot \"$1\" sh -euc", "printf %s");
    let printed = Command::new("sh")
        .args(["-c", &script])
        .output()
        .unwrap()
        .stdout;
    assert_eq!(String::from_utf8_lossy(&printed), "echo 'it'\"s\" >/x");
    assert_ne!(
        plan::recipe(&image.spec, ""),
        plan::recipe(&ImageSpec::default(), "")
    );
}

#[tokio::test]
async fn archives_are_checked_and_their_compression_taken_off() {
    let folder = tempfile::tempdir().unwrap();
    let cache = Cache(folder.path().join("cache"));
    let sh = |line: &str| {
        assert!(
            Command::new("sh")
                .current_dir(folder.path())
                .args(["-euc", line])
                .status()
                .unwrap()
                .success()
        )
    };
    sh("mkdir r; echo hello >r/file; tar -cf a.tar -C r .; gzip -k a.tar; echo text >no.tar");
    let spec = |name: &str, digest: Option<String>| ImageSpec {
        tarball: Some(Tarball {
            path: Some(folder.path().join(name).display().to_string()),
            url: None,
            digest,
        }),
        ..ImageSpec::default()
    };
    let plain = cache
        .build("plain", &spec("a.tar", None), |_| {})
        .await
        .unwrap();
    let packed = cache
        .build("packed", &spec("a.tar.gz", None), |_| {})
        .await
        .unwrap();
    assert_eq!(plain, packed);
    assert_eq!(cache.find("plain"), Some(plain.clone()));
    assert_eq!(
        cache
            .build(
                "checked",
                &spec("a.tar", Some(plain.digest.clone())),
                |_| {}
            )
            .await
            .unwrap(),
        plain
    );

    let reason = async |recipe: &str, spec: ImageSpec| {
        cache
            .build(recipe, &spec, |_| {})
            .await
            .unwrap_err()
            .reason()
            .to_owned()
    };
    assert_eq!(
        reason(
            "w",
            spec("a.tar", Some(format!("sha256:{}", "0".repeat(64))))
        )
        .await,
        "DigestMismatch"
    );
    assert_eq!(reason("n", spec("no.tar", None)).await, "NotAnArchive");
    assert_eq!(reason("x", spec("absent.tar", None)).await, "FileNotFound");
    assert_eq!(cache.find("w"), None);
    let drafts = std::fs::read_dir(&cache.0)
        .unwrap()
        .flatten()
        .filter(|e| e.path().to_string_lossy().contains("draft"));
    assert_eq!(drafts.count(), 0, "a refused archive leaves nothing");
}
