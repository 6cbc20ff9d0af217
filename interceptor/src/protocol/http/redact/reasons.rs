//! What approvers are told of what they do not see: where it stands, and what has said that it is a secret. An agent chooses the names by which
//! values are hidden, so people have to see which are.

/// Places that are told; of more, how many.
const PLACES: usize = 20;
/// The longest that is told of a place or a name, in characters.
const LENGTH: usize = 160;

/// What is hidden in one request.
#[derive(Clone, Debug, Default)]
pub(super) struct Reasons {
    told: Vec<String>,
    more: usize,
}

impl Reasons {
    /// Notes a place, which is asked for only where it is told, and what stands beside it that says so: its name and what it says.
    pub(super) fn note(&mut self, place: impl FnOnce() -> String, beside: Option<(&str, &str)>) {
        if self.told.len() >= PLACES {
            self.more += 1;
            return;
        }
        let mut told = shortened(&place());
        if let Some((name, said)) = beside {
            told.push_str(&format!(" (beside {}: {})", shortened(name), shortened(said)));
        }
        self.told.push(told);
    }

    pub(super) fn append(&mut self, other: &Self) {
        let room = PLACES.saturating_sub(self.told.len());
        self.told.extend(other.told.iter().take(room).cloned());
        self.more += other.more + other.told.len().saturating_sub(room);
    }

    /// A line each.
    pub(super) fn lines(&self) -> impl Iterator<Item = String> {
        let more = (self.more > 0).then(|| format!("hidden: {} more", self.more));
        let more = more.or_else(|| self.told.is_empty().then(|| "hidden: what cannot be told by name".to_owned()));
        self.told.iter().map(|told| format!("hidden: {told}")).chain(more)
    }
}

/// On one line, so that none can be taken for several, nor hide behind a long one: of a long place, its end tells.
fn shortened(text: &str) -> String {
    let skipped = text.chars().count().saturating_sub(LENGTH);
    let end = text.chars().skip(skipped).flat_map(char::escape_debug);
    let begun = if skipped > 0 { "..." } else { "" };
    begun.chars().chain(end).collect()
}
