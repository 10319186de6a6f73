//! A command on a terminal: a pseudo-terminal of the kernel, whose other end is the test.

use std::{
    fs::{File, OpenOptions},
    io::{Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    sync::{Arc, Mutex},
    thread,
};

use rustix::{
    fs::OFlags,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use test_support::{CATCH_UP, eventually};
use tokio::{
    process::{Child, Command},
    time::timeout,
};

use super::harness::{DEADLINE, Tool};

/// A command whose standard streams are a terminal.
#[derive(Debug)]
pub(crate) struct OnTerminal {
    child: Child,
    keyboard: File,
    screen: Arc<Mutex<String>>,
}

impl Tool {
    /// Starts the command on a terminal.
    pub(crate) fn start_on_terminal(self) -> OnTerminal {
        OnTerminal::start(self.into_command())
    }
}

impl OnTerminal {
    /// Starts any command.
    pub(crate) fn start(mut command: Command) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal");
        grantpt(&master).expect("it is ours");
        unlockpt(&master).expect("it is ours");
        let name = ptsname(&master, Vec::new()).expect("a name").into_string().expect("UTF-8");
        let no_control = OFlags::NOCTTY.bits().cast_signed();
        let open = || OpenOptions::new().read(true).write(true).custom_flags(no_control).open(&name).expect("its end");
        command.stdin(open()).stdout(open()).stderr(open()).kill_on_drop(true);
        let child = command.spawn().expect("it starts");
        // The command's ends of the terminal are its own then, so that reading ends with it.
        drop(command);
        let keyboard = File::from(master);
        let screen = Arc::<Mutex<String>>::default();
        let (mut reader, written) = (keyboard.try_clone().expect("a descriptor"), screen.clone());
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = reader.read(&mut buffer) {
                written.lock().expect("no panic").push_str(&String::from_utf8_lossy(&buffer[..count]));
            }
        });
        Self { child, keyboard, screen }
    }

    /// Everything that was shown, with its control characters.
    pub(crate) fn screen(&self) -> String {
        self.screen.lock().expect("no panic").clone()
    }

    /// Waits for a text on the terminal.
    pub(crate) async fn shown(&self, text: &str) {
        eventually(CATCH_UP, &format!("{text:?} on the terminal"), async || {
            let screen = self.screen();
            if screen.contains(text) { Ok(()) } else { Err(format!("{screen:?}")) }
        })
        .await;
    }

    /// Types keys.
    pub(crate) fn type_in(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the terminal is open");
    }

    /// Waits for the end and returns the exit status.
    pub(crate) async fn ended(&mut self) -> i32 {
        let status = timeout(DEADLINE, self.child.wait()).await;
        let status = status.unwrap_or_else(|_| panic!("no end in time: {:?}", self.screen())).expect("it was started");
        status.code().expect("an exit status")
    }
}
