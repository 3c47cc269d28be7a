//! Server-side apply with an unmodified kubectl.

mod harness;

use harness::kubectl::Kubectl;
use serde_json::Value;

fn container(name: &str, spec: &str) -> String {
    format!(
        "
apiVersion: skysail.dev/v1alpha1
kind: Container
metadata: {{name: {name}}}
spec: {{image: debian, instanceType: small{spec}}}
"
    )
}

async fn object(k: &Kubectl, name: &str) -> Value {
    let text = k
        .run(&format!("get {name} -o json --show-managed-fields"))
        .await;
    serde_json::from_str(&text).expect("json")
}

#[tokio::test]
async fn a_field_that_is_no_longer_applied_goes_and_an_equal_manifest_changes_nothing() {
    let k = Kubectl::start().await;
    let apply = "apply --server-side -f -";
    let first = container("db", ", restartPolicy: Never");
    assert_eq!(
        k.feed(apply, &first).await,
        "container.skysail.dev/db serverside-applied\n"
    );
    let made = object(&k, "ct/db").await;
    k.feed(apply, &first).await;
    assert_eq!(object(&k, "ct/db").await, made, "nothing changed");
    k.feed(apply, &container("db", "")).await;
    let next = object(&k, "ct/db").await;
    assert_eq!(next["spec"]["restartPolicy"], "Always", "the default again");
    assert_eq!(next["spec"]["image"], "debian");
}

#[tokio::test]
async fn two_managers_conflict_until_one_is_forced() {
    let k = Kubectl::start().await;
    k.feed(
        "apply --server-side --field-manager=one -f -",
        &container("db", ", running: true"),
    )
    .await;
    let other = container("db", ", running: false");
    let refused = k
        .refused("apply --server-side --field-manager=two -f -", &other)
        .await;
    assert!(
        refused.contains("conflict with \"one\": .spec.running"),
        "{refused}"
    );
    k.feed(
        "apply --server-side --force-conflicts --field-manager=two -f -",
        &other,
    )
    .await;
    let owners = object(&k, "ct/db").await["metadata"]["managedFields"].clone();
    assert_eq!(owners.as_array().map(Vec::len), Some(2), "{owners}");
    assert_eq!(
        k.run("get ct db -o jsonpath={.spec.running}").await,
        "false"
    );
}

#[tokio::test]
async fn objects_move_from_client_side_to_server_side_apply() {
    let k = Kubectl::start().await;
    k.feed("apply -f -", &container("db", ", restartPolicy: Never"))
        .await;
    let said = k
        .with_input("apply --server-side -f -", &container("db", ""))
        .await;
    assert!(said.ok && said.err.is_empty(), "{}{}", said.out, said.err);
    let next = object(&k, "ct/db").await;
    assert_eq!(next["spec"]["restartPolicy"], "Always", "the default again");
}

#[tokio::test]
async fn what_others_label_stays_and_a_difference_is_shown_first() {
    let k = Kubectl::start().await;
    let map = |data: &str| {
        format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m}}\ndata: {{{data}}}\n")
    };
    let apply = "apply --server-side -f -";
    k.feed(apply, &map("a: '1', b: '2'")).await;
    k.run("label cm m team=x").await;
    let diff = k
        .with_input("diff --server-side -f -", &map("a: '1'"))
        .await;
    assert!(diff.out.contains("-  b: \"2\""), "{}{}", diff.out, diff.err);
    k.feed(apply, &map("a: '1'")).await;
    let next = object(&k, "cm/m").await;
    assert_eq!(next["data"], serde_json::json!({"a": "1"}));
    assert_eq!(next["metadata"]["labels"]["team"], "x");
}
