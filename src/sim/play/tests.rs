use super::*;

async fn played(play: Play, runs: usize) -> (Sim, Vec<Step>) {
    let sim = Sim::start().await.unwrap();
    let (steps, mut taken) = mpsc::channel(1024);
    let mut player = Player::new(&sim, Play { pace: Duration::ZERO, ..play }, steps);
    for _ in 0..runs {
        player.run().await.unwrap();
    }
    drop(player);
    let mut all = Vec::new();
    while let Some(step) = taken.recv().await {
        all.push(step);
    }
    (sim, all)
}

#[tokio::test]
async fn a_run_is_submitted_runs_pushes_succeeds_and_is_finalized() {
    for form in [Form::TfxV1, Form::KfpV2] {
        let (sim, steps) = played(Play { form, ..Play::default() }, 2).await;
        let whats: Vec<_> = steps.iter().map(|step| (step.run, &step.what)).collect();
        let location =
            |run| What::Pushed { location: format!("gs://models/penguin-pipeline/Pusher/pushed_model/{run}") };
        let order = |run| [What::Submitted, What::Running, location(run), What::Succeeded, What::Finalized];
        let expected: Vec<_> = (1..=2).flat_map(|run| order(run).map(|what| (run, what))).collect();
        assert_eq!(whats, expected.iter().map(|(run, what)| (*run, what)).collect::<Vec<_>>());
        let step = &steps[9];
        assert_eq!(sim.workflow("demo", &step.workflow).unwrap().uid, step.uid);
    }
}

#[tokio::test]
async fn the_location_and_the_pipeline_can_be_chosen() {
    let play = Play {
        location: Some("s3://mine".to_owned()),
        pipeline: "My Pipeline!".to_owned(),
        form: Form::KfpV2,
        ..Play::default()
    };
    let (_sim, steps) = played(play, 1).await;
    assert!(steps.iter().any(|step| step.what == What::Pushed { location: "s3://mine".to_owned() }));
    assert!(steps[0].workflow.starts_with("my-pipeline-"), "{}", steps[0].workflow);
    assert_eq!(steps[0].pipeline, "My Pipeline!");
}

#[tokio::test]
async fn old_runs_are_forgotten() {
    let (sim, steps) = played(Play::default(), KEEP + 1).await;
    let there = |step: &Step| sim.workflow("demo", &step.workflow).is_ok();
    assert!(!there(&steps[0]));
    assert!(there(&steps[5]));
}

#[test]
fn a_workflows_name_is_made_from_any_pipelines() {
    assert_eq!(workflow_prefix("penguin-pipeline"), "penguin-pipeline-");
    assert_eq!(workflow_prefix("Ünder_score 2"), "nder-score-2-");
    assert_eq!(workflow_prefix("企鹅"), "run-");
    assert!(workflow_prefix(&"x".repeat(300)).len() + 5 <= 63);
}
