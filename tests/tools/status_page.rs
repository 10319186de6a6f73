//! The status page in a real browser. With `UPDATE_DOCS=1`, its pictures in `docs/images` are made anew.

use std::{env, fs, path::Path, time::Duration};

use model_update_eventsource::{
    app::Config,
    sim::{NewWorkflow, Run, Sim, Task},
};
use test_support::{TestEnv, TestServer, plain_http};

use super::{browser::Browser, *};

const WIDTHS: [u32; 2] = [360, 1280];
const THEMES: [&str; 2] = ["light", "dark"];

/// Names of a tenant that would be markup.
const MARKUP: &str = "<b onclick=alert(1)>&amp;";

/// The texts with too little contrast (WCAG AA), and how little.
const LOW_CONTRAST: &str = r"(() => {
  const rgb = (text) => (text.match(/[\d.]+/g) ?? [0, 0, 0, 0]).map(Number);
  const luminance = ([r, g, b]) => [r, g, b]
    .map((c) => c / 255).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4))
    .reduce((sum, c, i) => sum + c * [0.2126, 0.7152, 0.0722][i], 0);
  const background = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const color = rgb(getComputedStyle(e).backgroundColor);
      if (color.length < 4 || color[3] > 0) return color;
    }
    return [255, 255, 255];
  };
  const low = [];
  for (const element of document.querySelectorAll('body *')) {
    const hasText = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    if (!hasText || element.getClientRects().length === 0 || element.closest('.hidden, .skip')) continue;
    const pair = [rgb(getComputedStyle(element).color), background(element)].map(luminance).sort((a, b) => b - a);
    const contrast = (pair[0] + 0.05) / (pair[1] + 0.05);
    if (contrast < 4.5) low.push(`${element.textContent.trim()}: ${contrast.toFixed(1)}`);
  }
  return low;
})()";

/// The next element that a keyboard reaches.
const FOCUSED: &str = "(({tagName, id, textContent}) => id || `${tagName} ${textContent}`)(document.activeElement)";

async fn succeed(sim: &Sim, namespace: &str, name: &str, has_model: bool) {
    sim.create_workflow(namespace, NewWorkflow::tfx_v1(name, "penguin-pipeline")).expect("the simulation");
    let task = if has_model { Task::pusher("gs://models/secret-place/1") } else { Task::new("Trainer") };
    sim.put_task(&Run::tfx_v1("penguin-pipeline", name), task);
    sim.set_phase(namespace, name, "Succeeded").expect("the simulation");
}

#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn the_status_page_in_a_browser() {
    let program = Peers::with(&["chromium"]).await.program("chromium");
    let sim = Sim::start().await.unwrap();
    let config = Config {
        metadata_store: sim.metadata_url(),
        kubernetes: Some(sim.kube_config()),
        confirm_after: Duration::from_millis(100),
        trace_url_template: Some("https://jaeger.example.com/trace/{trace_id}".parse().unwrap()),
        ..Config::default()
    };
    let server = TestServer::start(config).await;
    let mut events = server.subscribe_as("deploy", "{kfpNamespace: team-a, pipelines: [penguin*]}").await;
    let _notify = server.subscribe_as("notify", "{kfpNamespace: team-a, latestOnly: true}").await;
    let _other = server.subscribe_as("deploy", "{kfpNamespace: team-b, pipelines: [other*]}").await;
    succeed(&sim, "team-a", "penguin-pipeline-4k2x8", true).await;
    events.next_payload().await;
    succeed(&sim, "team-a", "penguin-pipeline-9d1qz", false).await;
    succeed(&sim, "team-b", "iris-7c5vw", true).await;
    let (page, json) = (format!("http://{}/", server.admin()), format!("http://{}/statusz.json", server.admin()));
    let shown = eventually(CATCH_UP, "the deliveries and the problem", async || {
        let status = plain_http::get(&json).await?;
        let is_shown =
            status.matches("\"subscription\":").count() >= 4 && status.contains("\"filteredRuns\":{\"pipelines\":1}");
        if is_shown { Ok(status) } else { Err(status) }
    });
    assert!(!shown.await.contains("secret-place"), "the location of the model");

    let mut browser = Browser::start(&program).await;
    for (width, theme) in WIDTHS.into_iter().flat_map(|width| THEMES.map(|theme| (width, theme))) {
        let what = format!("{width} {theme}");
        browser.appearance(width, theme).await;
        browser.open(&page).await;
        browser.wait_for("document.querySelectorAll('#status table').length >= 4").await;
        let overflow = browser.value("document.documentElement.scrollWidth - window.innerWidth").await;
        assert!(overflow.as_i64() <= Some(0), "{what}: scrolls by {overflow}");
        assert_eq!(browser.value(LOW_CONTRAST).await, json!([]), "{what}");
        let picture = browser.screenshot(width, 1040).await;
        assert!(picture.len() > 10_000, "{what}");
        save(&format!("status-{width}-{theme}.png"), &picture);
    }
    landmarks(&mut browser).await;
    keyboard(&mut browser).await;

    // The focus and the page itself stay while a run is added, whose names are not markup.
    browser.value("window.before = true; document.querySelector('td a').focus()").await;
    let focused = browser.value(FOCUSED).await;
    succeed(&sim, "team-a", "penguin-pipeline-live1", true).await;
    browser.wait_for("document.body.textContent.includes('penguin-pipeline-live1')").await;
    let focus_now = browser.value("document.activeElement.tagName").await;
    assert_eq!((browser.value("window.before").await, focus_now), (json!(true), json!("A")), "{focused}");
    browser
        .open(&format!("{page}?namespace={}", form_urlencoded::byte_serialize(MARKUP.as_bytes()).collect::<String>()))
        .await;
    assert_eq!(browser.value("document.querySelectorAll('b').length").await, json!(0));

    let (requests, errors) = browser.observed();
    assert!(errors.iter().all(|error| error.contains("400 (Bad Request)")), "{errors:?}");
    assert!(requests.iter().all(|url| url.starts_with(&page) || url.starts_with("data:")), "{requests:?}");

    // A server that ends is said, once.
    browser.open(&page).await;
    server.stop().await;
    browser.value("document.getElementById('pause').click(); document.getElementById('pause').click()").await;
    browser.wait_for("document.getElementById('live').textContent.startsWith('No answer')").await;
}

/// The elements that a screen reader finds.
async fn landmarks(browser: &mut Browser) {
    for (expression, expected) in [
        ("document.querySelectorAll('header, nav[aria-label], main').length", 3),
        ("document.querySelectorAll('h1').length", 1),
        ("document.querySelectorAll('table:not(:has(caption))').length", 0),
        ("document.querySelectorAll('section:not([aria-labelledby])').length", 0),
        ("document.querySelectorAll('input:not([id])').length", 0),
        ("document.querySelectorAll('#live[aria-live=polite]').length", 1),
    ] {
        assert_eq!(browser.value(expression).await, json!(expected), "{expression}");
    }
}

/// The order in which a keyboard reaches everything, with a visible focus.
async fn keyboard(browser: &mut Browser) {
    browser.value("document.body.focus(); document.activeElement.blur()").await;
    let expected =
        ["A Skip to the status", "A statusz.json", "A livez", "A readyz", "namespace", "BUTTON Show", "pause"];
    for name in expected {
        browser.press("Tab").await;
        assert_eq!(browser.value(FOCUSED).await, name);
        let outline = browser.value("getComputedStyle(document.activeElement).outlineStyle").await;
        assert_ne!(outline, "none", "{name}");
    }
    browser.press("Tab").await;
    assert_eq!(browser.value("document.activeElement.closest('td')?.dataset.label").await, "Trace");
}

fn save(name: &str, picture: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/images");
    if env::var_os("UPDATE_DOCS").is_some() {
        fs::create_dir_all(&folder).expect("a writable folder");
        fs::write(folder.join(name), picture).expect("a writable folder");
    }
    assert!(folder.join(name).exists(), "make it with UPDATE_DOCS=1");
}

/// With `--auth token`, the page shows the health, and more with the token of an account that may subscribe.
#[tokio::test(flavor = "multi_thread")]
#[cfg_attr(not(feature = "peers"), ignore = "needs the real peers: tests/run")]
async fn a_token_unlocks_the_status_page() {
    let peers = Peers::with(&["chromium"]).await;
    let env = TestEnv::start(&peers).await;
    let server = env.start_server(&[], &["--auth=token"]).await;
    let account = env.cluster.service_account(&env.namespace, "reader").await;
    let rules = vec![rule("argoproj.io", "workflows", &["subscribe"])];
    env.cluster.grant(&account, Some(&env.namespace), rules).await;
    let token = env.cluster.token(&account, &[]).await;

    let mut browser = Browser::start(&peers.program("chromium")).await;
    browser.appearance(360, "light").await;
    browser.open(&format!("http://{}/?namespace={}", server.admin, env.namespace)).await;
    browser.wait_for("!document.getElementById('access').hidden").await;
    assert_eq!(browser.value("document.getElementById('subscriptions')").await, Value::Null);
    browser.value("document.getElementById('token').focus()").await;
    browser.type_text(&token).await;
    browser.press("Enter").await;
    browser.value("document.getElementById('access').requestSubmit()").await;
    browser.wait_for("document.getElementById('subscriptions') !== null").await;
    let address = browser.value("location.href").await;
    assert!(!address.as_str().unwrap().contains(&token[..16]), "the token is not in the address");
    let (_, errors) = browser.observed();
    assert!(errors.is_empty(), "{errors:?}");
    server.stop().await;
}
