//! Argo Events' own EventSource and Sensor on a real JetStream bus; see `go/argo-events`. Ask for them by name:
//! `Peers::with(&["argo-events", "nats-server", …])`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tokio::net::TcpStream;

use super::{Peers, START, eventually, ports::free_port, process::Neighbour};

/// A NATS server with JetStream.
#[derive(Debug)]
pub struct JetStream {
    process: Neighbour,
    port: u16,
}

impl Peers {
    /// A bus of the test's own, empty.
    pub async fn jet_stream(&self) -> JetStream {
        let mut bus =
            JetStream { process: Neighbour::new("nats-server", self.program("nats-server")), port: free_port() };
        bus.start().await;
        bus
    }

    /// Runs an EventSource, a Sensor or both, given as YAML. An EventSource dials its server 5 s after its start, and
    /// again every 5 s after a stream has ended.
    pub fn argo_events(&self, bus: &JetStream, event_source: Option<&str>, sensor: Option<&str>) -> ArgoEvents {
        self.argo(bus, event_source, sensor, None)
    }

    /// Runs a Sensor whose triggers touch Kubernetes, as the account of this kubeconfig.
    pub fn argo_sensor(&self, bus: &JetStream, sensor: &str, kubeconfig: &Path) -> ArgoEvents {
        self.argo(bus, None, Some(sensor), Some(kubeconfig))
    }

    fn argo(
        &self,
        bus: &JetStream,
        event_source: Option<&str>,
        sensor: Option<&str>,
        kubeconfig: Option<&Path>,
    ) -> ArgoEvents {
        let mut process = Neighbour::new("argo-events", self.program("argo-events"));
        let mut args = vec!["run".to_owned()];
        let files = [
            ("bus", Some(bus.config())),
            ("eventsource", event_source.map(str::to_owned)),
            ("sensor", sensor.map(str::to_owned)),
        ];
        for (flag, text) in files {
            if let Some(text) = text {
                let file = process.folder().join(flag);
                fs::write(&file, text).expect("its folder can be written");
                args.push(format!("--{flag}={}", file.display()));
            }
        }
        args.extend(kubeconfig.map(|file| format!("--kubeconfig={}", file.display())));
        process.set_args(args);
        process.start();
        ArgoEvents { process }
    }

    /// Whether Argo's controller would take every object in this YAML file; its refusal, if not.
    pub fn argo_validates(&self, file: &Path) -> Result<(), String> {
        let output = Command::new(self.program("argo-events")).arg("validate").arg(file).output();
        let output = output.expect("argo-events can be started");
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// The folder with Argo's CustomResourceDefinitions, one YAML file each.
    pub fn argo_crds(&self) -> PathBuf {
        self.program("argo-events").with_file_name("crds")
    }
}

impl JetStream {
    /// A BusConfig that leads here, as Argo's controller would write it.
    pub fn config(&self) -> String {
        let stream = "maxMsgs: 1000\nmaxAge: 72h\nmaxBytes: -1\nreplicas: 1\nduplicates: 300s\n";
        let url = format!("nats://127.0.0.1:{}", self.port);
        serde_json::json!({"jetstream": {"url": url, "streamConfig": stream}}).to_string()
    }

    /// SIGKILL; what it stored stays.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it (again, on its port).
    pub async fn start(&mut self) {
        let file = |name: &str| self.process.folder().join(name);
        // Argo asks for TLS always, and does not look at the certificate.
        if !file("tls.crt").exists() {
            let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
            fs::write(file("tls.crt"), signed.cert.pem()).expect("its folder can be written");
            fs::write(file("tls.key"), signed.signing_key.serialize_pem()).expect("its folder can be written");
        }
        let flag = |flag: &str, name: &str| format!("--{flag}={}", file(name).display());
        let args = [
            "--addr=127.0.0.1".to_owned(),
            format!("--port={}", self.port),
            "--jetstream".to_owned(),
            flag("store_dir", "store"),
            "--tls".to_owned(),
            flag("tlscert", "tls.crt"),
            flag("tlskey", "tls.key"),
        ];
        self.process.set_args(args);
        self.process.start();
        eventually(START, "nats-server listens", async || {
            assert!(self.process.is_running(), "nats-server ends as soon as it starts: {}", self.process.log());
            TcpStream::connect(("127.0.0.1", self.port)).await
        })
        .await;
    }
}

/// Argo's own code, running.
#[derive(Debug)]
pub struct ArgoEvents {
    process: Neighbour,
}

impl ArgoEvents {
    /// Waits for a line of its log that holds all of these; returns the line. A Sensor's `log` trigger writes what it got.
    pub async fn logged(&mut self, deadline: Duration, parts: &[&str]) -> String {
        let what = format!("a line of Argo Events' log with {parts:?}");
        eventually(deadline, &what, async || {
            assert!(self.process.is_running(), "Argo Events has ended: {}", self.process.log());
            let log = self.process.log();
            log.lines().find(|line| parts.iter().all(|&part| line.contains(part))).map(str::to_owned)
        })
        .await
    }

    /// All that it has logged.
    pub fn log(&self) -> String {
        self.process.log()
    }

    /// SIGSTOP.
    pub fn pause(&self) {
        self.process.pause();
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.process.resume();
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.process.kill();
    }
}
