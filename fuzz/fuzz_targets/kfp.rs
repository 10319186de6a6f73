//! Answers of Kubeflow's API: no answer panics, the conversion agrees with the generated types, and the pieces of a run
//! make no difference.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use model_update_eventsource::{
    kfp::fuzzing::{list_tasks, run, title},
    model::{Marks, Phase, PipelineName, RunId, Uid, Workflow},
};

/// The run `r` of the Workflow `w` in the namespace `n`: short, so that random answers are about it.
static RUN: LazyLock<Workflow> = LazyLock::new(|| Workflow {
    namespace: "n".into(),
    name: "w".into(),
    uid: Uid::from(1),
    created: 100,
    finished: 200,
    phase: Phase::Succeeded,
    resubmitted: true,
    events_published: false,
    pipeline: PipelineName::Unknown.into(),
    run_id: Some(RunId::new("r")),
    trace_id: None,
    marks: Marks::default(),
});

fuzz_target!(|answer: &[u8]| {
    list_tasks(answer, &RUN);
    // As the only task. A row of less than 2 MiB has a length of up to three bytes.
    let length = u32::try_from(answer.len()).expect("a small input");
    let mut page = vec![0x0a, length as u8 | 0x80, (length >> 7) as u8 | 0x80, (length >> 14) as u8 & 0x7f];
    page.extend_from_slice(answer);
    list_tasks(&page, &RUN);
    run(answer, usize::from(answer.first().copied().unwrap_or_default() % 9) + 1);
    title(&String::from_utf8_lossy(answer));
});
