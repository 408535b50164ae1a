//! Schedules of the learning rate and of an EMA teacher.

use std::f64::consts::PI;

/// The share of the full learning rate at a step: a line from 0 to 1 over `warmup` steps, then half a cosine down
/// to 0 at `total`. Steps may lie between whole numbers.
pub fn warmup_cosine(step: f64, warmup: f64, total: f64) -> f64 {
    if step < warmup {
        return step / warmup;
    }
    let done = ((step - warmup) / (total - warmup).max(f64::MIN_POSITIVE)).min(1.0);
    0.5 * (1.0 + (PI * done).cos())
}

/// How much of an EMA teacher stays in a step: from `base` at the first to 1 at `total`, as half a cosine (BYOL).
pub fn ema_cosine(step: f64, total: f64, base: f64) -> f64 {
    let done = (step / total.max(f64::MIN_POSITIVE)).min(1.0);
    1.0 - (1.0 - base) * 0.5 * (1.0 + (PI * done).cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_in_a_line_and_falls_as_a_cosine() {
        let expected =
            [(0.0, 0.0), (5.0, 0.5), (10.0, 1.0), (32.5, 0.853_553_390_593), (55.0, 0.5), (100.0, 0.0)];
        for (step, share) in expected {
            assert!((warmup_cosine(step, 10.0, 100.0) - share).abs() < 1e-9, "{step}");
        }
    }

    #[test]
    fn has_the_golden_values() {
        let Some(golden) = crate::gradcheck::golden() else { return };
        for (step, share) in golden["warmup_cosine_w10_T100"].as_object().unwrap() {
            let found = warmup_cosine(step.parse().unwrap(), 10.0, 100.0);
            assert!((found - share.as_f64().unwrap()).abs() < 1e-9, "{step}: {found}");
        }
    }

    #[test]
    fn ema_has_the_golden_values() {
        let Some(golden) = crate::gradcheck::golden() else { return };
        for (step, share) in golden["ema_cos_0.996"].as_object().unwrap() {
            let found = ema_cosine(step.parse().unwrap(), 100.0, 0.996);
            assert!((found - share.as_f64().unwrap()).abs() < 1e-9, "{step}: {found}");
        }
    }

    #[test]
    fn is_defined_without_warmup_and_when_all_is_warmup() {
        assert_eq!(warmup_cosine(0.0, 0.0, 10.0), 1.0);
        assert_eq!(warmup_cosine(5.0, 10.0, 10.0), 0.5);
        assert!(warmup_cosine(10.0, 10.0, 10.0).is_finite());
    }
}
