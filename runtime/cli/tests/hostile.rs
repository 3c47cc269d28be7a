//! Manifests that are wrong or hostile are refused whole, with their place and a way out,
//! by a command that stays small and quick; and who is not root is told so.

#![allow(clippy::unwrap_used)] // A test may.

mod server;

use server::{CLOUD, SKYSAIL, Server, err};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Output};

/// Applies a file with 2 GiB of address space and 10 s of processor time (a debug build is slow).
fn apply_bounded(server: &Server, file: &Path) -> Output {
    let line = "ulimit -v 2097152; ulimit -t 10; exec \"$@\"";
    Command::new("sh")
        .args(["-c", line, "sh", SKYSAIL, "--kubeconfig"])
        .arg(server.kubeconfig())
        .args(["apply", "-f"])
        .arg(file)
        .output()
        .unwrap()
}

fn bomb() -> String {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let below = vec![format!("*a{}", level - 1); 10].join(", ");
        text += &format!("a{level}: &a{level} [{below}]\n");
    }
    text
}

#[test]
fn a_mistake_anywhere_refuses_the_whole_with_its_place_and_applies_nothing() {
    let Some(server) = Server::start() else {
        return;
    };
    let good = format!("{CLOUD}---\n");
    let begin = good.lines().count() + 1;
    let object = |kind: &str, name: &str, rest: &str| {
        format!(
            "apiVersion: skysail.dev/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\n{rest}"
        )
    };
    let network = |cidr: &str| object("Network", "net", &format!("spec: {{cidr: {cidr}}}\n"));
    let configmap = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata: ";
    let deep = format!("{configmap}{}x{}\n", "[".repeat(500), "]".repeat(500));
    let large = format!("{configmap}{{x: \"{}\"}}\n", "y".repeat(10 << 20));
    let cases: Vec<(&str, Vec<u8>, Vec<&str>)> = vec![
        ("a YAML bomb", bomb().into(), vec!["document 2"]),
        (
            "10 MB",
            large.into(),
            vec!["document 2", "the limit of 3145728"],
        ),
        ("too deep", deep.into(), vec!["document 2"]),
        ("tabs", b"kind: A\n\tmetadata: x\n".to_vec(), vec!["line 6"]),
        (
            "not UTF-8",
            b"kind: \xff\n".to_vec(),
            vec![".yaml:6: is not UTF-8"],
        ),
        (
            "the same object twice",
            CLOUD.into(),
            vec!["metadata.name", ".yaml:1 (document 1)"],
        ),
        (
            "a key twice",
            object(
                "Network",
                "net",
                "spec: {cidr: 10.0.0.0/24, cidr: 10.0.0.0/24}\n",
            )
            .into(),
            vec!["spec.cidr stands twice"],
        ),
        (
            "an unknown kind",
            object("Clod", "net", "").into(),
            vec!["kind: the server has no Clod"],
        ),
        (
            "an unknown field",
            object("Network", "net", "spec: {cidr: 10.0.0.0/24, egres: true}\n").into(),
            vec!["spec.egres"],
        ),
        (
            "a public network",
            network("8.8.8.0/24").into(),
            vec!["spec.cidr", "10.0.0.0/8"],
        ),
        (
            "bits beyond the prefix",
            network("10.0.0.7/24").into(),
            vec!["spec.cidr", "10.0.0.0/24"],
        ),
    ];
    for (what, text, expected) in cases {
        let file = server.dir.path().join("wrong.yaml");
        std::fs::write(&file, [good.as_bytes(), &text].concat()).unwrap();
        let output = apply_bounded(&server, &file);
        let said = err(&output);
        assert_eq!(output.status.code(), Some(1), "{what}: {said}");
        let place = format!("wrong.yaml:{begin}");
        for part in expected.iter().chain([&place.as_str()]) {
            assert!(said.contains(part), "{what}: no {part:?} in: {said}");
        }
        assert!(said.len() < 2000, "{what}: {} bytes of error", said.len());
        assert_eq!(
            server.ok(&["get", "clouds,networks", "-o", "name"]),
            "",
            "{what}"
        );
    }
}

#[test]
fn a_refusal_in_a_namespace_that_the_same_manifests_make_applies_nothing_either() {
    let Some(server) = Server::start() else {
        return;
    };
    let namespace = "apiVersion: v1\nkind: Namespace\nmetadata: {name: new}\n---\n";
    let network = |cidr: &str| {
        format!(
            "apiVersion: skysail.dev/v1alpha1\nkind: Network\nmetadata: {{name: net, namespace: new}}\nspec: {{cidr: {cidr}}}\n"
        )
    };
    let apply = ["apply", "-f", "-"];
    let refused = server.feed(&apply, &format!("{namespace}{}", network("8.8.8.0/24")));
    let said = err(&refused);
    assert!(
        said.contains("networks/net")
            && said.contains("spec.cidr")
            && said.contains("nothing was applied"),
        "{said}"
    );
    assert!(!server.run(&["get", "namespace", "new"]).status.success());

    let made = server.feed(&apply, &format!("{namespace}{}", network("10.0.0.0/24")));
    assert!(made.status.success(), "{}", err(&made));
    assert_eq!(
        server.ok(&["get", "networks", "-n", "new", "-o", "name"]),
        "network/net\n"
    );
    assert_eq!(
        server.ok(&["get", "networks", "-n", "default", "-o", "name"]),
        ""
    );
}

#[test]
fn who_is_not_root_is_told_what_needs_root_and_nothing_is_begun() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("skipped: only root can become somebody else");
        return;
    }
    // Where everybody may go: the build's own folder may be in somebody's home.
    let dir = tempfile::Builder::new()
        .permissions(std::fs::Permissions::from_mode(0o777))
        .tempdir()
        .unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let program = dir.path().join("skysail");
    std::fs::hard_link(SKYSAIL, &program)
        .or_else(|_| std::fs::copy(SKYSAIL, &program).map(drop))
        .unwrap();
    for verb in [
        &["up"][..],
        &["down"],
        &["server"],
        &["agent", "--host", "a"],
    ] {
        let output = Command::new(&program)
            .args(verb)
            .current_dir(dir.path())
            .uid(65534)
            .gid(65534)
            .output()
            .unwrap();
        let said = err(&output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(
            said.contains(&format!("skysail {} must run as root", verb[0]))
                && said.contains("sudo"),
            "{said}"
        );
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
