// SPDX-License-Identifier: LGPL-2.1-only OR BSD-2-Clause
//! The cost of the probes, as text and as fields of records.

use crate::output::Value;
use crate::probe::cpu_clock::CpuClock;
use crate::probe::meter::{Meter, ProbeCost};
use crate::probe::prices::TrapPrices;

type CostField = (&'static str, Value<'static>);

/// What `--cost` prints after `cost: `.
pub fn cost_text(cost: &ProbeCost) -> String {
    let us = |ns| cost.per_hit(ns) / 1000.0;
    let whose = match cost.clock {
        CpuClock::Process(_) => "the traced process",
        CpuClock::Machine => "all processes",
    };
    match cost.hits {
        0 => "no hits".to_owned(),
        hits => format!(
            "{} hits, {:.2} us each ({:.2} kernel trap, {:.2} BPF program): about {} of the CPU time of {whose}",
            with_commas(hits),
            us(cost.probes_ns()),
            us(cost.trap_ns),
            us(cost.bpf_ns),
            percent(cost.cpu_share()),
        ),
    }
}

/// Message and hint when `--max-overhead` ends a run.
pub fn limit_exceeded_text(limit: Option<f64>, cost: &ProbeCost) -> (String, &'static str) {
    // Rounded to the decimals of a percentage on the command line.
    let limit = (limit.unwrap_or(1.0) * 1e6).round() / 1e4;
    let text = format!(
        "stopped: the probes took more than {limit} % of the CPU time in the last {:.2} s: {}",
        cost.period.as_secs_f64(),
        cost_text(cost)
    );
    let hint = match cost.clock {
        CpuClock::Process(_) => "trace functions that are called less often",
        CpuClock::Machine => {
            "trace functions that are called less often, or only one process with -p, so that others run without probes"
        }
    };
    (text, hint)
}

/// Fields of the `summary` record. Null without a meter.
pub fn summary_fields(meter: Option<&Meter>) -> [CostField; 8] {
    let [bpf, trap, probes, cpu, share] = meter.map_or([Value::Null; 5], |meter| cost_values(&meter.total()));
    let price = |of: fn(&TrapPrices) -> f64| {
        meter.map_or(Value::Null, |meter| Value::U64(of(meter.prices()).round() as u64))
    };
    [
        ("bpf_ns_per_hit", bpf),
        ("trap_ns_per_hit", trap),
        ("probes_ns", probes),
        ("cpu_ns", cpu),
        ("cpu_share", share),
        ("emulated_trap_ns", price(|prices| prices.emulated)),
        ("stepped_trap_ns", price(|prices| prices.stepped)),
        ("return_trap_ns", price(|prices| prices.returning)),
    ]
}

/// Fields of the `stopped` record, when `--max-overhead` ends a run.
pub fn stopped_fields(limit: Option<f64>, cost: &ProbeCost) -> [CostField; 8] {
    let [bpf, trap, probes, cpu, share] = cost_values(cost);
    [
        ("max_overhead", limit.map_or(Value::Null, Value::Share)),
        ("period_ns", Value::U64(cost.period.as_nanos() as u64)),
        ("hits", Value::U64(cost.hits)),
        ("bpf_ns_per_hit", bpf),
        ("trap_ns_per_hit", trap),
        ("probes_ns", probes),
        ("cpu_ns", cpu),
        ("cpu_share", share),
    ]
}

fn cost_values(cost: &ProbeCost) -> [Value<'static>; 5] {
    let per_hit = |ns| match cost.hits {
        0 => Value::Null,
        _ => Value::U64(cost.per_hit(ns).round() as u64),
    };
    [
        per_hit(cost.bpf_ns),
        per_hit(cost.trap_ns),
        Value::U64(cost.probes_ns() as u64),
        Value::U64(cost.cpu_ns),
        Value::Share(cost.cpu_share()),
    ]
}

fn percent(share: f64) -> String {
    match share * 100.0 {
        small @ ..10.0 => format!("{small:.1} %"),
        large => format!("{large:.0} %"),
    }
}

/// `1,234,567`.
fn with_commas(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn cost(clock: CpuClock) -> ProbeCost {
        ProbeCost {
            hits: 1_234_567,
            trap_ns: 1_234_567.0 * 620.0,
            bpf_ns: 1_234_567.0 * 90.0,
            cpu_ns: 7_304_521_416,
            period: Duration::from_secs(10),
            clock,
        }
    }

    #[test]
    fn cost_text_has_price_per_hit_and_share() {
        assert_eq!(
            cost_text(&cost(CpuClock::Process(7))),
            "1,234,567 hits, 0.71 us each (0.62 kernel trap, 0.09 BPF program): \
             about 12 % of the CPU time of the traced process"
        );
    }

    #[test]
    fn limit_is_shown_as_typed() {
        let (text, hint) = limit_exceeded_text(Some(0.07), &cost(CpuClock::Machine));
        assert!(
            text.starts_with("stopped: the probes took more than 7 % of the CPU time in the last 10.00 s: "),
            "{text}"
        );
        assert!(hint.contains("-p"), "{hint}");
    }

    #[test]
    fn digits_are_grouped_by_three() {
        let texts = [0, 999, 1000, 12_345_678].map(with_commas);
        assert_eq!(texts, ["0", "999", "1,000", "12,345,678"]);
    }
}
