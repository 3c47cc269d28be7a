//! The client verbs as people run them: the command against a server process of its own. The
//! server needs root, so without root there is nothing to test here.

#![allow(clippy::unwrap_used)] // A test may.

mod server;

use server::{CLOUD, SKYSAIL, Server, err, out};
use std::io::{BufRead as _, BufReader};
use std::process::Command;

#[test]
fn objects_are_shown_as_rows_names_yaml_and_json() {
    let Some(server) = Server::start() else {
        return;
    };
    server.apply(CLOUD);
    let table = server.ok(&["get", "clouds"]);
    assert!(
        table.starts_with("NAME   DRIVER") && table.contains("east   sandbox"),
        "{table}"
    );
    assert!(!table.contains('\x1b'), "colours in a pipe");
    assert_eq!(server.ok(&["get", "Cloud", "-o", "name"]), "cloud/east\n");
    assert_eq!(
        server.ok(&["get", "cloud/east", "-o", "jsonpath={.spec.driver}"]),
        "sandbox\n"
    );
    assert!(
        server
            .ok(&["get", "cloud", "east", "-o", "yaml"])
            .contains("  driver: sandbox\n")
    );
    assert!(
        server
            .ok(&["get", "cloud", "east", "-o", "json"])
            .contains("\"driver\": \"sandbox\"")
    );
    assert_eq!(
        server.ok(&["get", "clouds", "-l", "tier=b", "-o", "name"]),
        ""
    );
    assert!(
        server
            .ok(&["get", "clouds,ns"])
            .contains("namespace/default")
    );
}

#[test]
fn a_watch_shows_what_comes_after_it_began() {
    let Some(server) = Server::start() else {
        return;
    };
    server.apply(CLOUD);
    let mut watch = server
        .command(&["get", "clouds", "-w", "-o", "name"])
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok);
    assert_eq!(lines.next().as_deref(), Some("cloud/east"));
    server.apply(&CLOUD.replace("east", "west"));
    assert_eq!(lines.next().as_deref(), Some("cloud/west"));
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn errors_are_one_line_that_names_the_object_and_never_a_backtrace() {
    let Some(server) = Server::start() else {
        return;
    };
    let missing = server.run(&["get", "cloud", "nope"]);
    assert_eq!(
        (missing.status.code(), err(&missing).lines().count()),
        (Some(1), 1),
        "{}",
        err(&missing)
    );
    assert!(err(&missing).contains("clouds/nope"));
    assert!(err(&server.run(&["get", "pods"])).contains("has no such kind"));
    let refused = server.feed(
        &["apply", "-f", "-"],
        &CLOUD.replace("driver: sandbox", "driver: bogus"),
    );
    assert!(
        err(&refused).contains("\n  * spec.driver: "),
        "{}",
        err(&refused)
    );
}

#[test]
fn a_description_has_fields_and_labels() {
    let Some(server) = Server::start() else {
        return;
    };
    server.apply(CLOUD);
    let text = server.ok(&["describe", "cloud", "east"]);
    assert!(
        text.contains("tier=a")
            && text.contains("  driver: sandbox")
            && text.contains("Events: none"),
        "{text}"
    );
}

#[test]
fn deletion_waits_and_says_which_finalizer_it_waits_for() {
    let Some(server) = Server::start() else {
        return;
    };
    server.apply(&CLOUD.replace("labels:", "finalizers: [test.example/hold], labels:"));
    let held = server.run(&["delete", "cloud", "east", "--timeout", "1s"]);
    assert!(
        !held.status.success() && err(&held).contains("test.example/hold"),
        "{}",
        err(&held)
    );
    server.apply(&CLOUD.replace("east", "west"));
    assert_eq!(server.ok(&["delete", "cloud/west"]), "cloud/west deleted\n");
    assert!(!server.run(&["delete", "cloud/west"]).status.success());
    assert!(
        server
            .run(&["delete", "cloud/west", "--ignore-not-found"])
            .status
            .success()
    );
}

#[test]
fn waiting_ends_when_it_is_so_and_else_says_what_is_missing() {
    let Some(server) = Server::start() else {
        return;
    };
    server.apply(CLOUD);
    server.ok(&[
        "wait",
        "cloud/east",
        "--for=jsonpath={.spec.driver}=sandbox",
    ]);
    server.ok(&["wait", "cloud/none", "--for=delete"]);
    let late = server.run(&[
        "wait",
        "cloud/east",
        "--for=condition=Ready",
        "--timeout",
        "0s",
    ]);
    assert!(
        err(&late).contains("clouds/east: time is over: Ready has not been observed yet"),
        "{}",
        err(&late)
    );
    let waiting = server
        .command(&["wait", "cloud/east", "--for=delete"])
        .spawn()
        .unwrap();
    server.ok(&["delete", "cloud/east"]);
    assert_eq!(
        out(&waiting.wait_with_output().unwrap()),
        "cloud/east deleted\n"
    );
}

#[test]
fn a_difference_is_an_exit_code_and_changes_nothing() {
    let Some(server) = Server::start() else {
        return;
    };
    assert_eq!(
        server.feed(&["diff", "-f", "-"], CLOUD).status.code(),
        Some(1)
    );
    assert_eq!(server.ok(&["get", "clouds", "-o", "name"]), "");
    server.apply(CLOUD);
    assert_eq!(
        server.feed(&["diff", "-f", "-"], CLOUD).status.code(),
        Some(0)
    );
    let changed = server.feed(&["diff", "-f", "-"], &CLOUD.replace("tier: a", "tier: b"));
    assert!(
        out(&changed).contains("-    tier: a\n+    tier: b\n"),
        "{}",
        out(&changed)
    );
    assert_eq!(
        server.run(&["diff", "-f", "/nonexistent"]).status.code(),
        Some(2)
    );
}

#[test]
fn applying_with_wait_says_what_is_not_ready() {
    let Some(server) = Server::start() else {
        return;
    };
    let output = server.feed(&["apply", "-f", "-", "--wait", "--timeout", "0s"], CLOUD);
    assert!(
        !output.status.success() && err(&output).contains("clouds/east: time is over"),
        "{}",
        err(&output)
    );
}

#[test]
fn every_verb_has_examples_and_every_shell_a_completion() {
    for verb in [
        "get",
        "describe",
        "delete",
        "diff",
        "wait",
        "apply",
        "version",
        "completion",
    ] {
        let help = Command::new(SKYSAIL)
            .args([verb, "--help"])
            .output()
            .unwrap();
        assert!(out(&help).contains("Examples:"), "{verb}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = Command::new(SKYSAIL)
            .args(["completion", shell])
            .output()
            .unwrap();
        assert!(
            script.status.success() && out(&script).contains("describe"),
            "{shell}"
        );
    }
}
