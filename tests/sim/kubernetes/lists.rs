//! Lists, with pages and selectors.

use serde_json::{Value, json};

use super::{METADATA_LIST, TestEnv, label, names};
use crate::on_both;

on_both!(
    all_pages_of_a_list_have_one_version,
    the_last_page_of_a_selection_may_be_empty,
    a_list_has_metadata_only,
    invalid_parameters_are_refused,
    an_empty_list_has_null_as_its_items,
    selectors_select,
);

fn next(list: &Value) -> String {
    list["metadata"]["continue"].as_str().unwrap_or_default().to_owned()
}

async fn list(env: &TestEnv, query: &str) -> Value {
    env.get(&format!("?{query}"), METADATA_LIST).await.expect("a list")
}

async fn all_pages_of_a_list_have_one_version(env: TestEnv) {
    env.create_labelled(&["e", "b", "d", "a", "c"]).await;
    let first = list(&env, "limit=2").await;
    assert_eq!(names(&first), ["a", "b"]);
    let second = list(&env, &format!("limit=2&continue={}", next(&first))).await;
    assert_eq!(names(&second), ["c", "d"]);
    let third = list(&env, &format!("limit=2&continue={}", next(&second))).await;
    assert_eq!((names(&third), next(&third)), (vec!["e"], String::new()));
    for page in [&second, &third] {
        assert_eq!(page["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    }
    let all = list(&env, "limit=5").await;
    assert_eq!((names(&all).len(), next(&all)), (5, String::new()));
}

async fn the_last_page_of_a_selection_may_be_empty(env: TestEnv) {
    env.create_labelled(&["a", "b", "c"]).await;
    let page = list(&env, "limit=1&labelSelector=l%3Da").await;
    assert_eq!(names(&page), ["a"]);
    assert_ne!(next(&page), "", "the server does not look for further matches");
    let rest = list(&env, &format!("limit=1&labelSelector=l%3Da&continue={}", next(&page))).await;
    assert_eq!((names(&rest), next(&rest)), (vec![], String::new()));
    let whole = list(&env, "limit=2&labelSelector=l%3Dc").await;
    assert_eq!((names(&whole), next(&whole)), (vec!["c"], String::new()));
}

async fn a_list_has_metadata_only(env: TestEnv) {
    env.create_labelled(&["a"]).await;
    let list = env.get("", METADATA_LIST).await.expect("a list");
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("PartialObjectMetadataList"), &json!("meta.k8s.io/v1")));
    let item = &list["items"][0];
    assert_eq!((&item["kind"], &item["apiVersion"]), (&json!("PartialObjectMetadata"), &json!("meta.k8s.io/v1")));
    assert_eq!((&item["metadata"]["labels"], item.get("spec")), (&json!({"l": "a"}), None));
}

async fn invalid_parameters_are_refused(env: TestEnv) {
    for query in ["labelSelector=a%20b", "labelSelector=%3D%3D", "labelSelector=a+in+(b", "continue=nonsense&limit=1"] {
        let refusal = env.get(&format!("?{query}"), "*/*").await.expect_err(query);
        assert_eq!((refusal.code, &*refusal.reason), (400, "BadRequest"), "{query}");
    }
    for query in ["limit=abc", "resourceVersion=abc"] {
        assert_eq!(env.get(&format!("?{query}"), "*/*").await.expect_err(query).code, 400, "{query}");
    }
}

async fn an_empty_list_has_null_as_its_items(env: TestEnv) {
    assert_eq!(list(&env, "limit=5").await["items"], json!(null), "which clients must accept");
}

async fn selectors_select(env: TestEnv) {
    env.create_labelled(&["a", "b", "c"]).await;
    env.patch("c", label("pipeline/runid", json!("1"))).await.expect("accepted");
    for (selector, selected) in [
        ("l", vec!["a", "b", "c"]),
        ("!pipeline/runid", vec!["a", "b"]),
        ("pipeline/runid,l=c", vec!["c"]),
        ("pipeline/runid=1", vec!["c"]),
        ("pipeline/runid,l=a", vec![]),
        ("l=b", vec!["b"]),
        ("other=", vec![]),
    ] {
        let query: String = selector.bytes().map(|byte| format!("%{byte:02X}")).collect();
        assert_eq!(names(&list(&env, &format!("labelSelector={query}")).await), selected, "{selector}");
    }
}
