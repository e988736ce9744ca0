use halfbyte_runtime::train::schedule::{Schedule, ScheduleKind, Warmup};

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
    for kind in [ScheduleKind::Linear, ScheduleKind::Cosine, ScheduleKind::Constant] {
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
    let name = "polynomial".parse::<ScheduleKind>().unwrap_err().to_string();
    assert!(name.contains("polynomial") && name.contains("linear, cosine or constant"), "{name}");
    assert_eq!("constant_with_warmup".parse::<ScheduleKind>().unwrap(), ScheduleKind::Constant);
}
