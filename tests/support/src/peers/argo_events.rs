//! Argo Events' EventSource and Sensor on a real JetStream bus, see `tests/peers/go/argo-events`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use tokio::net::TcpStream;

use super::{Peers, START};
use crate::{ChildProcess, eventually, free_port};

/// A NATS server with JetStream.
#[derive(Debug)]
pub struct JetStream {
    process: ChildProcess,
    port: u16,
}

impl Peers {
    /// Starts an empty bus.
    pub async fn jet_stream(&self) -> JetStream {
        let mut bus =
            JetStream { process: ChildProcess::new("nats-server", self.program("nats-server")), port: free_port() };
        bus.start().await;
        bus
    }

    /// Starts an EventSource, a Sensor or both, given as YAML. An EventSource connects 5 s after its start, and 5 s
    /// after each end of a stream.
    pub fn argo_events(&self, bus: &JetStream, event_source: Option<&str>, sensor: Option<&str>) -> ArgoEvents {
        self.argo(bus, event_source, sensor, None)
    }

    /// Starts a Sensor with the account of this kubeconfig.
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
        let mut process = ChildProcess::new("argo-events", self.program("argo-events"));
        let mut args = vec!["run".to_owned()];
        let files = [
            ("bus", Some(bus.config())),
            ("eventsource", event_source.map(str::to_owned)),
            ("sensor", sensor.map(str::to_owned)),
        ];
        for (flag, text) in files {
            if let Some(text) = text {
                let file = process.folder().join(flag);
                fs::write(&file, text).expect("the folder is writable");
                args.push(format!("--{flag}={}", file.display()));
            }
        }
        args.extend(kubeconfig.map(|file| format!("--kubeconfig={}", file.display())));
        process.set_args(args);
        process.start();
        ArgoEvents { process }
    }

    /// Validates every object in this YAML file as Argo's controller does.
    ///
    /// # Errors
    /// The controller's message.
    pub fn argo_validates(&self, file: &Path) -> Result<(), String> {
        let output = Command::new(self.program("argo-events")).arg("validate").arg(file).output();
        let output = output.expect("argo-events can be started");
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    }

    /// The folder of Argo's CustomResourceDefinitions, one YAML file each.
    pub fn argo_crds(&self) -> PathBuf {
        self.program("argo-events").with_file_name("crds")
    }
}

impl JetStream {
    /// The BusConfig for this bus, as Argo's controller writes it.
    fn config(&self) -> String {
        let stream = "maxMsgs: 1000\nmaxAge: 72h\nmaxBytes: -1\nreplicas: 1\nduplicates: 300s\n";
        let url = format!("nats://127.0.0.1:{}", self.port);
        serde_json::json!({"jetstream": {"url": url, "streamConfig": stream}}).to_string()
    }

    async fn start(&mut self) {
        let file = |name: &str| self.process.folder().join(name);
        // Argo always uses TLS and does not verify the certificate.
        let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        fs::write(file("tls.crt"), signed.cert.pem()).expect("the folder is writable");
        fs::write(file("tls.key"), signed.signing_key.serialize_pem()).expect("the folder is writable");
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
            assert!(self.process.is_running(), "nats-server has ended: {}", self.process.log());
            TcpStream::connect(("127.0.0.1", self.port)).await
        })
        .await;
    }
}

/// A running EventSource, Sensor or both.
#[derive(Debug)]
pub struct ArgoEvents {
    process: ChildProcess,
}

impl ArgoEvents {
    /// Waits for a log line that contains all of these and returns it. A Sensor's `log` trigger logs its input.
    pub async fn logged(&mut self, deadline: Duration, parts: &[&str]) -> String {
        let what = format!("a line of Argo Events' log with {parts:?}");
        eventually(deadline, &what, async || {
            assert!(self.process.is_running(), "Argo Events has ended: {}", self.process.log());
            let log = self.process.log();
            log.lines().find(|line| parts.iter().all(|&part| line.contains(part))).map(str::to_owned)
        })
        .await
    }

    /// Everything logged so far.
    pub fn log(&self) -> String {
        self.process.log()
    }
}
