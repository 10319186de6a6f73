//! Random inputs: an API server whose watch lags and relists, an admission webhook that hangs in a namespace, Workflows
//! without room for annotations and others that leave the selector and return, lookups that fail, large payloads,
//! subscribers that do not read, streams that come and go, several replicas, crashes, and marks that a user removes.
//! `test_env` holds the true state, `oracle` the conclusions of an observer who knows only the guarantees. This file
//! holds the possible inputs, and what must hold at the end.

mod oracle;
mod test_env;

use std::time::Duration;

use proptest::prelude::*;

use self::test_env::{PatchOutcome, Reply, TestEnv};

/// The age at which streams end, in half of the cases. Their clients reconnect.
const MAX_CONNECTION_AGE: Duration = Duration::from_secs(1200);

/// One input. Numbers choose among what exists.
#[derive(Clone, Debug)]
enum Op {
    /// A run succeeds. One that was deleted is created again under its name.
    Succeed(u8),
    Restart(u8),
    Delete(u8),
    /// The Workflow leaves the selector, or returns.
    Leave(u8),
    Return(u8),
    /// The annotations of the Workflow have no room for a mark, or have room again.
    Fill(u8),
    /// Patches of a namespace hang, or no longer do.
    Hang(u8),
    /// Another replica delivers a run.
    Mark(u8, u8),
    /// A user requests a redelivery.
    Unmark(u8, u8),
    Label(u8),
    /// This number of watch events arrives.
    Watch(u8),
    Relist,
    Attach(u8, u8),
    /// A stream is offered further records.
    Read,
    End(u8),
    Acknowledge(u8, u8),
    Answer(u8, Reply),
    /// Everything but the patches makes progress.
    Progress,
    Patch(u8, PatchOutcome),
    Wait(Duration),
    Jump(i64),
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    let small = || 0..8_u8;
    let reply = prop_oneof![
        6 => Just(Reply::Correct),
        2 => Just(Reply::Unavailable),
        1 => Just(Reply::NoContext),
        1 => Just(Reply::ForeignContext),
    ];
    let outcome = prop_oneof![
        6 => Just(PatchOutcome::Applied),
        1 => Just(PatchOutcome::AppliedUnanswered),
        2 => Just(PatchOutcome::Lost),
        1 => Just(PatchOutcome::Refused),
        1 => Just(PatchOutcome::Conflict),
    ];
    let wait = prop_oneof![
        3 => Just(10),
        6 => Just(1_000),
        2 => Just(20_000),
        1 => Just(700_000),
        1 => Just(3_700_000),
    ];
    prop_oneof![
        8 => small().prop_map(Op::Succeed),
        2 => small().prop_map(Op::Restart),
        2 => small().prop_map(Op::Delete),
        2 => small().prop_map(Op::Leave),
        2 => small().prop_map(Op::Return),
        1 => small().prop_map(Op::Fill),
        1 => small().prop_map(Op::Hang),
        1 => (small(), small()).prop_map(|(run, subscription)| Op::Mark(run, subscription)),
        2 => (small(), small()).prop_map(|(run, subscription)| Op::Unmark(run, subscription)),
        1 => small().prop_map(Op::Label),
        10 => (1..4_u8).prop_map(Op::Watch),
        1 => Just(Op::Relist),
        6 => (small(), small()).prop_map(|(namespace, subscription)| Op::Attach(namespace, subscription)),
        8 => Just(Op::Read),
        4 => small().prop_map(Op::End),
        8 => (small(), small()).prop_map(|(stream, events)| Op::Acknowledge(stream, events)),
        12 => (small(), reply).prop_map(|(lookup, reply)| Op::Answer(lookup, reply)),
        5 => Just(Op::Progress),
        8 => (small(), outcome).prop_map(|(patch, outcome)| Op::Patch(patch, outcome)),
        8 => wait.prop_map(|ms| Op::Wait(Duration::from_millis(ms))),
        1 => (-1_000_000..1_000_000_i64).prop_map(Op::Jump),
        1 => Just(Op::Crash),
    ]
}

fn apply(env: &mut TestEnv, op: &Op) {
    match *op {
        Op::Succeed(run) => env.succeed(run),
        Op::Restart(run) => env.restart(run),
        Op::Delete(run) => env.delete(run),
        Op::Leave(run) => env.leave(run),
        Op::Return(run) => env.return_run(run),
        Op::Fill(run) => env.fill(run),
        Op::Hang(namespace) => env.hang(namespace),
        Op::Mark(run, subscription) => env.mark(run, subscription),
        Op::Unmark(run, subscription) => env.unmark(run, subscription),
        Op::Label(run) => env.label(run),
        Op::Watch(events) => env.watch(events.into()),
        Op::Relist => env.relist(),
        Op::Attach(namespace, subscription) => env.attach(namespace, subscription),
        Op::Read => env.read(),
        Op::End(stream) => env.end(stream),
        Op::Acknowledge(stream, events) => env.acknowledge(stream, events),
        Op::Answer(lookup, reply) => env.answer(lookup, reply),
        Op::Progress => env.progress(),
        Op::Patch(patch, outcome) => env.patch(patch, outcome),
        Op::Wait(duration) => env.wait(duration),
        Op::Jump(seconds) => env.jump(seconds),
        Op::Crash => env.crash(),
    }
    env.check_bounds();
}

/// Runs the faults, then a time without faults, then the end of every stream and Workflow.
fn check(ops: &[Op], mut env: TestEnv) {
    for op in ops {
        apply(&mut env, op);
    }
    env.run_without_faults(Duration::from_secs(4 * 3600));
    env.check_everything_delivered();
    env.close();
    env.check_nothing_left();
}

proptest! {
    /// Whatever happens, each run is delivered once to each subscription, and no memory or timer is left at the end. A
    /// stream that ends because of its age could move to another replica without a duplicate.
    #[test]
    fn random_faults_lose_nothing_and_repeat_nothing(
        ops in prop::collection::vec(op(), 1..150),
        skip_labelled: bool,
        ages: bool,
    ) {
        check(&ops, TestEnv::new(skip_labelled, false, ages.then_some(MAX_CONNECTION_AGE)));
    }

    /// The same holds beside a subscription with `latestOnly`, for which a superseded run counts as delivered. No older
    /// run follows a newer one, and only a newer one that was sent supersedes a run.
    #[test]
    fn random_faults_bring_no_older_run_after_a_newer_one(ops in prop::collection::vec(op(), 1..150), ages: bool) {
        check(&ops, TestEnv::new(false, true, ages.then_some(MAX_CONNECTION_AGE)));
    }
}
