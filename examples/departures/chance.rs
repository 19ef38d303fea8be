//! How are airports chosen? At random from a seed, a few of them very often: Zipf's law, as in real traffic.

/// A source of random numbers: `SplitMix64` (Steele, Lea, Flood, OOPSLA 2014).
pub(crate) struct Chance(u64);

impl Chance {
    /// The source of one task; tasks of one seed draw different numbers.
    pub(crate) fn new(seed: u64, task: u64) -> Self {
        let mut seeds = Self(seed);
        Self(seeds.draw() ^ Self(task).draw())
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        ((u128::from(self.draw()) * limit as u128) >> 64) as usize
    }

    /// Whether something happens that happens once in `times`.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    /// A number from 0 to below 1.
    fn fraction(&mut self) -> f64 {
        // 53 bits fit a double exactly.
        (self.draw() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        bits ^ (bits >> 31)
    }
}

/// Places in an order of popularity: the first is drawn twice as often as the second, three times as often as the third.
pub(crate) struct Zipf {
    /// For each place, the weight of all places up to it.
    sums: Vec<f64>,
}

impl Zipf {
    pub(crate) fn new(places: usize) -> Self {
        let mut sum = 0.0;
        let sums = (1..=places)
            .map(|place| {
                sum += 1.0 / place as f64;
                sum
            })
            .collect();
        Self { sums }
    }

    pub(crate) fn draw(&self, chance: &mut Chance) -> usize {
        let last = self.sums.len() - 1;
        let point = chance.fraction() * self.sums[last];
        self.sums.partition_point(|sum| *sum <= point).min(last)
    }
}
