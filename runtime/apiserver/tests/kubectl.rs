//! The commands of an unmodified kubectl.

mod harness;

use harness::kubectl::{CONTAINER, Kubectl};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Child;

/// Lines of a table with single spaces.
fn table(text: &str) -> Vec<String> {
    text.lines()
        .map(|l| l.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

async fn line(child: &mut BufReader<tokio::process::ChildStdout>) -> String {
    let mut line = String::new();
    let read = tokio::time::timeout(Duration::from_secs(20), child.read_line(&mut line));
    read.await.expect("a line in time").expect("read");
    table(&line).concat()
}

fn lines(child: &mut Child) -> BufReader<tokio::process::ChildStdout> {
    BufReader::new(child.stdout.take().expect("a pipe"))
}

#[tokio::test]
async fn manifests_are_applied_changed_compared_replaced_and_deleted() {
    let k = Kubectl::start().await;
    assert_eq!(
        k.feed("apply -f -", CONTAINER).await,
        "container.skysail.dev/db created\n"
    );
    assert_eq!(
        k.feed("apply -f -", CONTAINER).await,
        "container.skysail.dev/db unchanged\n"
    );
    let changed = CONTAINER.replace("image: debian", "image: debian, running: false");
    let diff = k.with_input("diff -f -", &changed).await;
    assert!(
        diff.out.contains("-  running: true\n+  running: false"),
        "{}{}",
        diff.out,
        diff.err
    );
    assert_eq!(
        k.run("get ct db -o jsonpath={.spec.running}").await,
        "true",
        "a dry run changes nothing"
    );
    assert_eq!(
        k.feed("apply -f -", &changed).await,
        "container.skysail.dev/db configured\n"
    );
    assert_eq!(
        k.feed("replace -f -", CONTAINER).await,
        "container.skysail.dev/db replaced\n"
    );
    let exists = k.refused("create -f -", CONTAINER).await;
    assert_eq!(
        exists,
        "Error from server (AlreadyExists): error when creating \"STDIN\": containers.skysail.dev \"db\" already exists\n"
    );
    assert_eq!(
        k.feed("delete -f -", CONTAINER).await,
        "container.skysail.dev \"db\" deleted\n"
    );
    let missing = k.refused("get ct db", "").await;
    assert_eq!(
        missing,
        "Error from server (NotFound): containers.skysail.dev \"db\" not found\n"
    );
}

#[tokio::test]
async fn get_prints_tables_and_every_other_form() {
    let k = Kubectl::start().await;
    k.feed("apply -f -", CONTAINER).await;
    let plain = table(&k.run("get ct").await);
    assert_eq!(plain[0], "NAME PHASE READY HOST ADDRESS TYPE RESTARTS AGE");
    assert!(plain[1].starts_with("db small "), "{plain:?}");
    assert!(table(&k.run("get ct -A -o wide").await)[0].starts_with("NAMESPACE NAME PHASE"));
    assert!(table(&k.run("get ct --show-labels -L app").await)[1].ends_with("shop app=shop"));
    assert_eq!(
        k.run("get ct -o name -l app=shop").await,
        "container.skysail.dev/db\n"
    );
    assert_eq!(k.run("get ct -o name -l app!=shop").await, "");
    assert_eq!(k.run("get all -o name").await, "container.skysail.dev/db\n");
    assert!(
        k.run("get ct db -o yaml")
            .await
            .contains("instanceType: small")
    );
    assert!(
        k.run("get ct db -o json")
            .await
            .contains("\"instanceType\": \"small\"")
    );
    assert_eq!(
        k.run("get ct -o jsonpath={.items[*].spec.instanceType}")
            .await,
        "small"
    );
    assert_eq!(
        table(&k.run("get ct -o custom-columns=I:.spec.image").await),
        ["I", "debian"]
    );
    assert_eq!(table(&k.run("get ns").await)[0], "NAME STATUS AGE");
    assert!(
        k.run("get ct --sort-by=.metadata.name")
            .await
            .contains("db")
    );
}

#[tokio::test]
async fn watching_shows_changes_as_they_happen() {
    let k = Kubectl::start().await;
    k.feed("apply -f -", CONTAINER).await;
    let args = "get ct -l app=shop -w --output-watch-events --no-headers";
    let mut child = k.command(args).spawn().expect("kubectl runs");
    let mut out = lines(&mut child);
    assert!(line(&mut out).await.starts_with("ADDED db "));
    k.run("annotate ct db a=b").await;
    assert!(line(&mut out).await.starts_with("MODIFIED db "));
    k.run("label ct db app-").await;
    assert!(line(&mut out).await.starts_with("DELETED db "));
    k.run("label ct db app=shop").await;
    assert!(line(&mut out).await.starts_with("ADDED db "));
    child.kill().await.expect("ended");

    let mut child = k.command("get ct -w").spawn().expect("kubectl runs");
    let mut out = lines(&mut child);
    assert!(line(&mut out).await.starts_with("NAME PHASE"));
    assert!(line(&mut out).await.starts_with("db small"));
    k.run("delete ct db").await;
    assert!(line(&mut out).await.starts_with("db small"));
    child.kill().await.expect("ended");
}

#[tokio::test]
async fn labels_annotations_patches_edits_and_scale_change_objects() {
    let k = Kubectl::start().await;
    k.feed("apply -f -", CONTAINER).await;
    assert_eq!(
        k.run("label ct db a=b").await,
        "container.skysail.dev/db labeled\n"
    );
    assert_eq!(
        k.run("annotate ct db a=b").await,
        "container.skysail.dev/db annotated\n"
    );
    let patched = "container.skysail.dev/db patched\n";
    assert_eq!(
        k.run("patch ct db --type=merge -p {\"spec\":{\"running\":false}}")
            .await,
        patched
    );
    let json = "patch ct db --type=json -p [{\"op\":\"replace\",\"path\":\"/spec/running\",\"value\":true}]";
    assert_eq!(k.run(json).await, patched);
    assert_eq!(
        k.run("get ct db -o jsonpath={.metadata.generation}").await,
        "3"
    );
    let refused = k.refused("patch ct db -p {}", "").await;
    assert!(
        refused.contains("is not supported by skysail.dev/v1alpha1, Kind=Container"),
        "{refused}"
    );
    let mut edit = k.command("edit ct db");
    edit.env("EDITOR", "sed -i s/small/large/")
        .stdin(Stdio::null());
    let edited = edit.output().await.expect("kubectl runs");
    assert_eq!(
        String::from_utf8_lossy(&edited.stdout),
        "container.skysail.dev/db edited\n"
    );
    assert_eq!(
        k.run("get ct db -o jsonpath={.spec.instanceType}").await,
        "large"
    );

    let set = "{apiVersion: skysail.dev/v1alpha1, kind: ContainerSet, metadata: {name: web}, spec: {replicas: 1, \
               template: {spec: {image: debian, instanceType: small}}}}";
    k.feed("create -f -", set).await;
    assert_eq!(
        k.run("scale cs/web --replicas=3").await,
        "containerset.skysail.dev/web scaled\n"
    );
    assert_eq!(
        k.run("scale cs/web --current-replicas=3 --replicas=4")
            .await,
        "containerset.skysail.dev/web scaled\n"
    );
    assert_eq!(k.run("get cs web -o jsonpath={.spec.replicas}").await, "4");
}

#[tokio::test]
async fn wait_ends_with_a_condition_a_value_or_a_deletion() {
    let k = Kubectl::start().await;
    k.feed("apply -f -", CONTAINER).await;
    let mut waiting = k
        .command("wait ct/db --for=condition=Ready --timeout=30s")
        .spawn()
        .expect("kubectl runs");
    let status = "patch ct db --subresource=status --type=merge -p \
                  {\"status\":{\"conditions\":[{\"type\":\"Ready\",\"status\":\"True\",\"reason\":\"Up\",\
                  \"message\":\"up\",\"lastTransitionTime\":\"2026-01-01T00:00:00Z\"}]}}";
    k.run(status).await;
    assert_eq!(
        line(&mut lines(&mut waiting)).await,
        "container.skysail.dev/db condition met"
    );
    k.run("wait ct/db --for=jsonpath={.spec.running}=true --timeout=30s")
        .await;
    k.run("patch ct db --type=merge -p {\"metadata\":{\"finalizers\":[\"skysail.dev/test\"]}}")
        .await;
    let held = k.refused("delete ct db --timeout=1s", "").await;
    assert!(
        held.contains("timed out waiting for the condition"),
        "{held}"
    );
    let mut gone = k
        .command("wait ct/db --for=delete --timeout=30s")
        .spawn()
        .expect("kubectl runs");
    k.run("patch ct db --type=json -p [{\"op\":\"remove\",\"path\":\"/metadata/finalizers\"}]")
        .await;
    assert!(gone.wait().await.expect("ended").success());
    assert!(k.refused("get ct db", "").await.contains("NotFound"));
}

#[tokio::test]
async fn mistakes_are_named_with_their_field() {
    let k = Kubectl::start().await;
    let unknown = k
        .refused(
            "apply -f -",
            &CONTAINER.replace("image:", "bogus: 1, image:"),
        )
        .await;
    assert!(
        unknown.contains("strict decoding error: unknown field \"spec.bogus\""),
        "{unknown}"
    );
    let wrong = k
        .refused(
            "apply -f -",
            &CONTAINER.replace("image: debian", "image: [1]"),
        )
        .await;
    assert!(
        wrong.starts_with("The Container \"db\" is invalid: spec.image: "),
        "{wrong}"
    );
    let warned = k
        .with_input(
            "apply --validate=warn -f -",
            &CONTAINER.replace("image:", "bogus: 1, image:"),
        )
        .await;
    assert!(
        warned.ok && warned.err.contains("Warning: unknown field \"spec.bogus\""),
        "{}",
        warned.err
    );
    let missing = k.refused("create -n nowhere -f -", CONTAINER).await;
    assert!(
        missing.contains("namespaces \"nowhere\" not found"),
        "{missing}"
    );
}

#[tokio::test]
async fn the_server_explains_itself() {
    let k = Kubectl::start().await;
    assert!(k.run("explain ct.spec").await.contains("instanceType"));
    assert!(k.run("explain ct --recursive").await.contains("conditions"));
    assert!(k.run("explain secret").await.contains("stringData"));
    let resources = table(&k.run("api-resources").await);
    assert!(
        resources.contains(&"containers ct skysail.dev/v1alpha1 true Container".into()),
        "{resources:?}"
    );
    assert!(k.run("api-versions").await.contains("skysail.dev/v1alpha1"));
    let who = table(&k.run("auth whoami").await);
    assert!(who.contains(&"Username alice".into()), "{who:?}");
    assert_eq!(k.run("auth can-i create ct").await, "yes\n");
    assert_eq!(k.run("get --raw /readyz").await, "ok");
    let version = k.with_input("version", "").await;
    assert!(
        version.out.contains("+skysail.") && version.ok,
        "{}",
        version.out
    );
}

#[tokio::test]
async fn core_kinds_are_made_by_kubectls_own_commands() {
    let k = Kubectl::start().await;
    assert_eq!(
        k.run("create namespace acme").await,
        "namespace/acme created\n"
    );
    assert_eq!(
        k.run("create configmap c -n acme --from-literal=a=b").await,
        "configmap/c created\n"
    );
    assert_eq!(
        k.run("create secret generic s -n acme --from-literal=a=b")
            .await,
        "secret/s created\n"
    );
    assert_eq!(
        k.run("get secret s -n acme -o jsonpath={.data.a}").await,
        "Yg=="
    );
    let map =
        "{apiVersion: v1, kind: ConfigMap, metadata: {name: d, namespace: acme}, data: {a: b}}";
    k.feed("apply -f -", map).await;
    assert_eq!(k.feed("apply -f -", map).await, "configmap/d unchanged\n");
    assert_eq!(
        k.feed("apply -f -", &map.replace("a: b", "c: d")).await,
        "configmap/d configured\n"
    );
    assert_eq!(
        k.run("get cm d -n acme -o jsonpath={.data}").await,
        "{\"c\":\"d\"}"
    );
    assert_eq!(
        k.run("delete namespace acme").await,
        "namespace \"acme\" deleted\n"
    );
    assert_eq!(k.run("get cm -n acme -o name").await, "");
}

#[tokio::test]
async fn events_and_descriptions_tell_the_story() {
    let k = Kubectl::start().await;
    k.feed("apply -f -", CONTAINER).await;
    let uid = k.run("get ct db -o jsonpath={.metadata.uid}").await;
    let event = format!(
        "{{apiVersion: events.k8s.io/v1, kind: Event, metadata: {{name: db.1, namespace: default}}, type: Normal, \
         reason: Placed, note: on host h1, action: Place, eventTime: '2026-01-01T00:00:00.000000Z', \
         reportingController: placement, reportingInstance: p-0, regarding: {{apiVersion: skysail.dev/v1alpha1, \
         kind: Container, namespace: default, name: db, uid: {uid}}}}}"
    );
    k.feed("create -f -", &event).await;
    let described = k.run("describe ct db").await;
    assert!(
        described.contains("Instance Type:") && described.contains("on host h1"),
        "{described}"
    );
    assert!(
        k.run("events --for container/db")
            .await
            .contains("on host h1")
    );
    assert!(k.run("get events").await.contains("container/db"));
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let k = Kubectl::start().await;
    let text = std::fs::read_to_string(&k.kubeconfig).expect("read");
    let bare: Vec<&str> = text.lines().filter(|l| !l.contains("client-")).collect();
    std::fs::write(
        &k.kubeconfig,
        bare.join("\n")
            .replace("  user:\n", "  user: {token: none}\n"),
    )
    .expect("written");
    assert_eq!(k.run("get --raw /readyz").await, "ok", "probes need none");
    let refused = k.refused("get ns", "").await;
    assert!(
        refused.contains("You must be logged in to the server"),
        "{refused}"
    );
}

#[tokio::test]
async fn the_objects_of_a_list_are_applied_and_a_mistake_in_one_is_named() {
    let k = Kubectl::start().await;
    let list = |spec: &str| {
        format!(
            "
apiVersion: v1
kind: List
items:
- {{apiVersion: skysail.dev/v1alpha1, kind: Container, metadata: {{name: one}}, spec: {{image: debian, instanceType: small}}}}
- {{apiVersion: skysail.dev/v1alpha1, kind: Container, metadata: {{name: two}}, spec: {{image: debian, {spec}}}}}
"
        )
    };
    let made = k.feed("apply -f -", &list("instanceType: small")).await;
    assert_eq!(
        made,
        "container.skysail.dev/one created\ncontainer.skysail.dev/two created\n"
    );
    let refused = k.refused("apply -f -", &list("instanceTyp: small")).await;
    assert!(refused.contains("instanceTyp"), "{refused}");
}

#[tokio::test]
async fn a_large_list_which_is_packed_arrives_whole() {
    let k = Kubectl::start().await;
    let text = "words ".repeat(1000);
    let map = |i: usize| {
        format!(
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: m{i:02}}}\ndata: {{text: {text:?}}}\n"
        )
    };
    let all: String = (0..40).map(map).collect();
    k.feed("create -f -", &all).await;
    for flags in ["", " --disable-compression"] {
        let names = k.run(&format!("get configmaps -o name{flags}")).await;
        assert_eq!(names.lines().count(), 40, "{names}");
        let one = k
            .run(&format!(
                "get configmaps -o jsonpath={{.items[39].data.text}}{flags}"
            ))
            .await;
        assert_eq!(one, text);
    }
}
