//! What approvers are told of what they do not see: where it stands, and what has said that it is a secret. An agent chooses the names by which
//! values are hidden, so people have to see which are: first those that are the least like a secret, and of what is alike (`items.0.pin`,
//! `items.1.pin`) one with how many there are, so that none of them can be hidden behind many others.

/// Places that differ in more than their numbers, of each sort; of more, how many.
const PLACES: usize = 24;
/// Places that are looked at of each sort; of more, how many.
const LOOKED_AT: usize = 4096;
/// The longest that is told of a place or a name, in characters.
const LENGTH: usize = 160;

/// What is hidden, from what is the least like a secret to what is the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Sort {
    /// A number that a name beside it says to be a secret.
    NumberBeside,
    /// A number under the name of a secret.
    Number,
    /// A text that a name beside it says to be a secret.
    Beside,
    /// A text under the name of a secret.
    Named,
}

impl Sort {
    const ALL: usize = 4;

    /// Of a value, and what is said of it beside.
    const fn of(is_number: bool, beside: Option<(&str, &str)>) -> Self {
        match (is_number, beside) {
            (true, Some(_)) => Self::NumberBeside,
            (true, None) => Self::Number,
            (false, Some(_)) => Self::Beside,
            (false, None) => Self::Named,
        }
    }
}

/// Places that are alike.
#[derive(Clone, Debug)]
struct Told {
    sort: Sort,
    /// The first of them.
    place: String,
    /// It, without its numbers.
    shape: String,
    count: usize,
}

/// What is hidden in one request.
#[derive(Clone, Debug, Default)]
pub(super) struct Reasons {
    told: Vec<Told>,
    /// Places of each sort that were looked at.
    noted: [usize; Sort::ALL],
    more: usize,
}

impl Reasons {
    /// Notes a place, which is asked for only where it is told, whether a number stands there, and what stands beside it that says so: its
    /// name and what it says.
    pub(super) fn note(&mut self, place: impl FnOnce() -> String, is_number: bool, beside: Option<(&str, &str)>) {
        let sort = Sort::of(is_number, beside);
        match self.noted.get_mut(sort as usize) {
            Some(noted) if *noted < LOOKED_AT => *noted += 1,
            _ => {
                self.more += 1;
                return;
            }
        }
        let mut told = shortened(&place());
        let mut shape = numberless(&told);
        if let Some((name, said)) = beside {
            let beside = format!(" (beside {}: {})", shortened(name), shortened(said));
            told.push_str(&beside);
            shape.push_str(&beside);
        }
        self.add(Told { sort, place: told, shape, count: 1 });
    }

    pub(super) fn append(&mut self, other: &Self) {
        other.told.iter().cloned().for_each(|told| self.add(told));
        self.more += other.more;
    }

    fn add(&mut self, told: Told) {
        let alike = |known: &&mut Told| known.sort == told.sort && known.shape == told.shape;
        if let Some(known) = self.told.iter_mut().find(alike) {
            known.count += told.count;
        } else if self.told.iter().filter(|known| known.sort == told.sort).count() < PLACES {
            self.told.push(told);
        } else {
            self.more += told.count;
        }
    }

    /// A line each; the first says so where there are more.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        let more = match (self.more, self.told.is_empty()) {
            (0, true) => Some("hidden: what cannot be told by name".to_owned()),
            (0, false) => None,
            (more, _) => Some(format!("hidden: {more} places more than are told here")),
        };
        let mut told: Vec<&Told> = self.told.iter().collect();
        told.sort_by_key(|told| told.sort);
        more.into_iter().chain(told.into_iter().map(|told| {
            let what = if matches!(told.sort, Sort::Number | Sort::NumberBeside) { ", a number" } else { "" };
            let alike = if told.count > 1 { format!(", and {} more like it", told.count - 1) } else { String::new() };
            format!("hidden: {}{what}{alike}", told.place)
        }))
    }
}

/// A path with `*` for each step that is a number.
fn numberless(path: &str) -> String {
    let steps = path.split_inclusive(['.', '[', ']', ' ', ':']);
    let shown = steps.map(|step| match step.trim_end_matches(['.', '[', ']', ' ', ':']) {
        number if !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()) => {
            step.replacen(number, "*", 1)
        }
        _ => step.to_owned(),
    });
    shown.collect()
}

/// As much of a long text as is told.
fn end_of(text: &str) -> &str {
    let begin = text.char_indices().rev().nth(LENGTH).map_or(0, |(at, c)| at + c.len_utf8());
    text.get(begin..).unwrap_or_default()
}

/// A path of which the steps are given from the last to the first: as much of its end as is told.
pub(super) fn path<'s>(steps: impl Iterator<Item = &'s str>) -> String {
    let (mut told, mut length) = (Vec::new(), 0);
    for step in steps {
        told.push(end_of(step));
        length += step.len();
        if length > LENGTH {
            // It goes on; more is cut off in any case.
            told.push("...");
            break;
        }
    }
    told.reverse();
    told.join(".")
}

/// On one line, so that none can be taken for several, nor hide behind a long one: of a long place, its end tells.
fn shortened(text: &str) -> String {
    let end = end_of(text);
    // What is escaped is longer than it was.
    let escaped: Vec<char> = end.chars().flat_map(char::escape_debug).collect();
    let shown = escaped.get(escaped.len().saturating_sub(2 * LENGTH)..).unwrap_or_default();
    let begun = if end.len() < text.len() || shown.len() < escaped.len() { "..." } else { "" };
    begun.chars().chain(shown.iter().copied()).collect()
}
