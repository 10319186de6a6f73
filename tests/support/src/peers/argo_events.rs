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

/// The command that gives a process a view of the file system of its own, without being root.
const PRIVATE: [&str; 4] = ["unshare", "--user", "--map-root-user", "--mount"];

/// Starts a program with the folder `$2` as `/argo-events/secrets`, where Argo Events reads the Secrets that its controller
/// mounts. `$1` is an empty folder, which becomes the root: it has everything that is below `/`.
const WITH_SECRETS: &str = r#"
set -e
root=$1; secrets=$2; shift 2
mount -t tmpfs tmpfs "$root"
for entry in /*; do
    name=${entry#/}
    if [ "$name" = argo-events ]; then continue
    elif [ -L "$entry" ]; then cp -P "$entry" "$root/$name"
    elif [ -d "$entry" ]; then mkdir "$root/$name"; mount --rbind "$entry" "$root/$name"
    fi
done
mkdir -p "$root/argo-events/secrets"
mount --bind "$secrets" "$root/argo-events/secrets"
exec chroot "$root" "$@"
"#;

/// Returns whether a process can have a file system of its own: containers and some distributions forbid that.
pub fn can_have_root() -> bool {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let mut command = Command::new(PRIVATE[0]);
    command.args(&PRIVATE[1..]).args(["mount", "-t", "tmpfs", "tmpfs"]).arg(folder.path());
    command.output().is_ok_and(|output| output.status.success())
}

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
        self.argo(bus, event_source, sensor, None, None)
    }

    /// Starts an EventSource with this folder of Secrets: `NAME/KEY` is the value of a key. See [`can_have_root`].
    pub fn argo_events_with_secrets(&self, bus: &JetStream, event_source: &str, secrets: &Path) -> ArgoEvents {
        self.argo(bus, Some(event_source), None, None, Some(secrets))
    }

    /// Starts a Sensor with the account of this kubeconfig.
    pub fn argo_sensor(&self, bus: &JetStream, sensor: &str, kubeconfig: &Path) -> ArgoEvents {
        self.argo(bus, None, Some(sensor), Some(kubeconfig), None)
    }

    fn argo(
        &self,
        bus: &JetStream,
        event_source: Option<&str>,
        sensor: Option<&str>,
        kubeconfig: Option<&Path>,
        secrets: Option<&Path>,
    ) -> ArgoEvents {
        // `env` becomes what it starts.
        let mut process = ChildProcess::new("argo-events", "/usr/bin/env".into());
        let text = |path: &Path| path.display().to_string();
        let mut args = Vec::new();
        if let Some(secrets) = secrets {
            let root = process.folder().join("root");
            fs::create_dir(&root).expect("the folder is writable");
            args.extend(PRIVATE.iter().chain(&["sh", "-c", WITH_SECRETS, "sh"]).map(|&arg| arg.to_owned()));
            args.extend([text(&root), text(secrets)]);
        }
        args.extend([text(&self.program("argo-events")), "run".to_owned()]);
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
