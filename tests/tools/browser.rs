//! A real Chromium without a window, controlled by its DevTools protocol.

use std::{collections::VecDeque, path::Path, process::Stdio, time::Duration};

use data_encoding::BASE64;
use futures::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    net::TcpStream,
    process::{Child, Command},
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, client_async, tungstenite::Message};

/// The deadline of the browser's start, and of an answer, on a busy machine.
const DEADLINE: Duration = Duration::from_secs(60);
/// No request of the browser's own leaves the machine.
const FLAGS: [&str; 12] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--disable-dev-shm-usage",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
];

/// A browser with one tab.
pub(crate) struct Browser {
    _process: Child,
    _folder: tempfile::TempDir,
    socket: WebSocketStream<TcpStream>,
    session: String,
    last_id: u64,
    events: VecDeque<Value>,
}

impl Browser {
    /// Starts the browser with an empty profile and an empty page.
    pub(crate) async fn start(program: &Path) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut process = Command::new(program)
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", folder.path().display()))
            .arg("about:blank")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("the browser starts");
        let mut lines = BufReader::new(process.stderr.take().expect("its log")).lines();
        let url = timeout(DEADLINE, async {
            while let Some(line) = lines.next_line().await.expect("UTF-8") {
                if let Some((_, url)) = line.split_once("DevTools listening on ") {
                    return url.to_owned();
                }
            }
            panic!("the browser ended");
        });
        let url = url.await.expect("the browser listens");
        // Its log must be read, or it stops.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let address = url.strip_prefix("ws://").and_then(|rest| rest.split('/').next()).expect("an address");
        let stream = TcpStream::connect(address).await.expect("a connection");
        let (socket, _) = client_async(&url, stream).await.expect("a WebSocket");
        let (session, events) = (String::new(), VecDeque::new());
        let mut browser = Self { _process: process, _folder: folder, socket, session, last_id: 0, events };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"})).await;
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", attach).await;
        attached["sessionId"].as_str().expect("a session").clone_into(&mut browser.session);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.call(&format!("{domain}.enable"), json!({})).await;
        }
        browser
    }

    /// Calls a method of the protocol.
    pub(crate) async fn call(&mut self, method: &str, params: Value) -> Value {
        self.last_id += 1;
        let id = self.last_id;
        let mut message = json!({"id": id, "method": method, "params": params});
        if !self.session.is_empty() {
            message["sessionId"] = self.session.clone().into();
        }
        self.socket.send(Message::text(message.to_string())).await.expect("the browser reads");
        loop {
            let mut answer = self.receive().await;
            if answer["id"] == id {
                assert!(answer["error"].is_null(), "{method}: {answer}");
                return answer["result"].take();
            }
            self.events.push_back(answer);
        }
    }

    async fn receive(&mut self) -> Value {
        loop {
            let message = timeout(DEADLINE, self.socket.next()).await.expect("in time").expect("open").expect("valid");
            if let Message::Text(text) = message {
                return serde_json::from_str(&text).expect("JSON");
            }
        }
    }

    /// Sets the size of the window and the theme.
    pub(crate) async fn appearance(&mut self, width: u32, theme: &str) {
        let size = json!({"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600});
        self.call("Emulation.setDeviceMetricsOverride", size).await;
        let theme = json!({"features": [{"name": "prefers-color-scheme", "value": theme}]});
        self.call("Emulation.setEmulatedMedia", theme).await;
    }

    /// Loads a page.
    pub(crate) async fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({"url": url})).await;
        self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'").await;
    }

    /// Returns the value of an expression, and waits for it if it is a promise.
    pub(crate) async fn value(&mut self, expression: &str) -> Value {
        let params = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let mut result = self.call("Runtime.evaluate", params).await;
        assert!(result["exceptionDetails"].is_null(), "{expression}: {result}");
        result["result"]["value"].take()
    }

    /// Waits until an expression is true.
    pub(crate) async fn wait_for(&mut self, expression: &str) {
        let waited = timeout(DEADLINE, async {
            while self.value(expression).await != json!(true) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        });
        if waited.await.is_err() {
            let page = self.value("document.body.innerText").await;
            panic!("never true: {expression}\n{page}");
        }
    }

    /// Presses a key.
    pub(crate) async fn press(&mut self, key: &str) {
        for kind in ["rawKeyDown", "keyUp"] {
            let code = if key == "Tab" { 9 } else { 13 };
            let params = json!({"type": kind, "key": key, "code": key, "windowsVirtualKeyCode": code});
            self.call("Input.dispatchKeyEvent", params).await;
        }
    }

    /// Types text into the focused field.
    pub(crate) async fn type_text(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text})).await;
    }

    /// Returns a picture of the upper part of the page, as PNG.
    pub(crate) async fn screenshot(&mut self, width: u32, height: u32) -> Vec<u8> {
        let clip = json!({"x": 0, "y": 0, "width": width, "height": height, "scale": 1});
        let params = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let shot = self.call("Page.captureScreenshot", params).await;
        BASE64.decode(shot["data"].as_str().expect("data").as_bytes()).expect("base64")
    }

    /// Returns the events since the last call: the addresses of requests, and errors.
    pub(crate) fn observed(&mut self) -> (Vec<String>, Vec<String>) {
        let (mut requests, mut errors) = (Vec::new(), Vec::new());
        for event in self.events.drain(..) {
            let params = &event["params"];
            match event["method"].as_str() {
                Some("Network.requestWillBeSent") => {
                    requests.push(params["request"]["url"].as_str().unwrap_or_default().to_owned());
                }
                Some("Runtime.exceptionThrown") => errors.push(params.to_string()),
                Some("Runtime.consoleAPICalled") if params["type"] == "error" => errors.push(params.to_string()),
                Some("Log.entryAdded") if params["entry"]["level"] == "error" => errors.push(params.to_string()),
                _ => {}
            }
        }
        (requests, errors)
    }
}
