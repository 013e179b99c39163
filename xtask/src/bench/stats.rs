//! What many measurements of one thing say: their median and how far they lie apart.
//!
//! In: numbers. Out: a [`Summary`]. Medians, since what disturbs a measurement (interrupts, other programs) only ever
//! adds to it, and now and then adds a lot.

/// Several measurements of one thing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Summary {
    /// The middle one; between the two in the middle where their number is even.
    pub median: f64,
    /// The smallest.
    pub min: f64,
    /// The largest.
    pub max: f64,
    /// How many there were.
    pub count: usize,
}

impl Summary {
    /// Of `values`; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len().is_multiple_of(2) {
            f64::midpoint(values[middle - 1], values[middle])
        } else {
            values[middle]
        };
        Some(Self { median, min, max, count: values.len() })
    }
}

#[cfg(test)]
mod tests {
    use super::Summary;

    #[test]
    fn the_median_is_the_middle_one_whatever_the_order_and_the_outliers() {
        let summary = Summary::of([3.0, 1.0, 1e9]).unwrap();
        assert_eq!(summary, Summary { median: 3.0, min: 1.0, max: 1e9, count: 3 });
    }

    #[test]
    fn an_even_number_has_its_median_between_the_middle_two() {
        assert_eq!(Summary::of([4.0, 1.0, 2.0, 100.0]).map(|it| it.median), Some(3.0));
    }

    #[test]
    fn nothing_measured_has_no_summary() {
        assert_eq!(Summary::of([]), None);
    }
}
