use halfbyte_runtime::train::schedule::{Fall, Schedule, ScheduleKind, Warmup};

fn schedule(kind: ScheduleKind, warmup: Warmup) -> Schedule {
    Schedule::new(kind, 2e-4, warmup, 10).unwrap()
}

/// Compares to a few units in the last place: the values are computed by hand.
#[track_caller]
fn assert_lr(schedule: &Schedule, step: u64, want: f64) {
    let got = schedule.lr(step);
    assert!((got - want).abs() <= 1e-18, "step {step}: {got}, want {want}");
}

#[test]
fn linear_falls_to_zero() {
    let schedule = schedule(ScheduleKind::Linear, Warmup::Steps(2));
    for (step, want) in [(0, 0.0), (1, 1e-4), (2, 2e-4), (3, 1.75e-4), (6, 1e-4), (9, 0.25e-4), (10, 0.0), (11, 0.0)] {
        assert_lr(&schedule, step, want);
    }
}

#[test]
fn cosine_falls_to_zero() {
    let schedule = schedule(ScheduleKind::Cosine, Warmup::Steps(2));
    // (1 + cos 45°) / 2 = 0.85355…, (1 + cos 90°) / 2 = 0.5, (1 + cos 135°) / 2 = 0.14644…
    let (eighth, half) = (0.853_553_390_593_273_8, 0.5);
    for (step, factor) in
        [(0, 0.0), (1, 0.5), (2, 1.0), (4, eighth), (6, half), (8, 1.0 - eighth), (10, 0.0), (20, 0.0)]
    {
        assert_lr(&schedule, step, 2e-4 * factor);
    }
}

/// What the functions of transformers 5.24.0 (`optimization.py`) gave in Python 3.11 for a peak of 2e-4, 2 steps of warm-up
/// among 10, and 4 of decay, after as many steps as `STEPS` says.
#[test]
fn other_falls_are_those_of_transformers() {
    const STEPS: [u64; 9] = [0, 1, 2, 3, 5, 7, 8, 9, 10];
    let fall = |min_lr, power| Fall { min_lr, power, decay_ratio: 0.4 };
    let goldens = [
        (
            ScheduleKind::CosineWithMinLr,
            fall(Some(2e-5), 1.0),
            [
                0.0,
                0.0001,
                0.0002,
                0.00019314915792601581,
                0.00014444150891285807,
                7.555849108714192e-05,
                4.6360389693210735e-05,
                2.6850842073984196e-05,
                2e-05,
            ],
        ),
        (
            ScheduleKind::Polynomial,
            fall(None, 1.0),
            [0.0, 0.0001, 0.0002, 0.0001750125, 0.0001250375, 7.50625e-05, 5.0075e-05, 2.50875e-05, 1e-07],
        ),
        (
            ScheduleKind::Polynomial,
            fall(Some(2e-5), 2.0),
            [0.0, 0.0001, 0.0002, 0.0001578125, 9.03125e-05, 4.53125e-05, 3.125e-05, 2.28125e-05, 2e-05],
        ),
        (
            ScheduleKind::WarmupStableDecay,
            fall(None, 1.0),
            [0.0, 0.0001, 0.0002, 0.0002, 0.0002, 0.00017071067811865476, 0.0001, 2.9289321881345254e-05, 0.0],
        ),
        (
            ScheduleKind::WarmupStableDecay,
            fall(Some(2e-5), 1.0),
            [2e-05, 0.00011, 0.0002, 0.0002, 0.0002, 0.00017363961030678927, 0.00011, 4.6360389693210735e-05, 2e-05],
        ),
    ];
    for (kind, fall, wanted) in goldens {
        let schedule = schedule(kind, Warmup::Steps(2)).falling(fall).unwrap();
        STEPS.iter().zip(wanted).for_each(|(&step, want)| assert_lr(&schedule, step, want));
        assert_lr(&schedule, 99, wanted[8]);
    }
}

#[test]
fn constant_stays_after_its_warmup() {
    let schedule = schedule(ScheduleKind::Constant, Warmup::Ratio(0.31));
    // 3.1 steps, rounded up
    for (step, factor) in [(0, 0.0), (1, 0.25), (3, 0.75), (4, 1.0), (10, 1.0), (99, 1.0)] {
        assert_lr(&schedule, step, 2e-4 * factor);
    }
}

#[test]
fn without_warmup_the_first_step_has_the_peak() {
    for kind in [
        ScheduleKind::Linear,
        ScheduleKind::Cosine,
        ScheduleKind::CosineWithMinLr,
        ScheduleKind::WarmupStableDecay,
        ScheduleKind::Polynomial,
        ScheduleKind::Constant,
    ] {
        assert_lr(&schedule(kind, Warmup::Steps(0)), 0, 2e-4);
        assert_lr(&schedule(kind, Warmup::Ratio(0.0)), 0, 2e-4);
    }
}

#[test]
fn a_warmup_longer_than_the_run_never_reaches_the_peak() {
    let schedule = schedule(ScheduleKind::Linear, Warmup::Steps(20));
    assert_lr(&schedule, 9, 0.9e-4);
    assert_lr(&schedule, 20, 0.0);
}

#[test]
fn refuses_what_makes_no_sense() {
    let refusal = |lr, warmup| Schedule::new(ScheduleKind::Linear, lr, warmup, 10).unwrap_err().to_string();
    assert!(refusal(f64::NAN, Warmup::Steps(0)).contains("learning rate is NaN"));
    assert!(refusal(-1.0, Warmup::Steps(0)).contains("learning rate is -1"));
    assert!(refusal(1.0, Warmup::Ratio(1.5)).contains("from 0 to 1"));
    assert!(refusal(1.0, Warmup::Ratio(f64::NAN)).contains("from 0 to 1"));
    let name = "inverse_sqrt".parse::<ScheduleKind>().unwrap_err().to_string();
    assert!(
        name.contains("inverse_sqrt") && name.contains("linear, cosine, ") && name.contains(" or constant"),
        "{name}"
    );
    let falling = |kind, fall| {
        let schedule = Schedule::new(kind, 1e-3, Warmup::Steps(0), 10).unwrap();
        schedule.falling(fall).map(drop).map_err(|e| e.to_string())
    };
    let (min_lr, plain) = (ScheduleKind::CosineWithMinLr, Fall::default());
    assert!(falling(min_lr, plain).unwrap_err().contains("must be told"));
    assert!(falling(min_lr, Fall { min_lr: Some(2e-3), ..plain }).unwrap_err().contains("to the learning rate, 0.001"));
    assert!(falling(min_lr, Fall { min_lr: Some(f64::NAN), ..plain }).unwrap_err().contains("min_lr is NaN"));
    assert!(falling(min_lr, Fall { power: 0.0, ..plain }).unwrap_err().contains("above 0"));
    assert!(falling(min_lr, Fall { decay_ratio: 1.1, ..plain }).unwrap_err().contains("from 0 to 1"));
    assert_eq!(falling(min_lr, Fall { min_lr: Some(1e-3), ..plain }), Ok(()));
    assert_eq!("constant_with_warmup".parse::<ScheduleKind>().unwrap(), ScheduleKind::Constant);
}
