//! Directions to the scripted peers, written into the prompt: `[[name arguments]]`.

/// The directions of one prompt, in order, and what is left of the prompt without them.
#[derive(Debug, Default)]
pub(crate) struct Markers {
    found: Vec<(String, String)>,
    /// The prompt without its directions, trimmed.
    pub(crate) rest: String,
}

impl Markers {
    /// Reads the directions of `text`. One that is not closed is text.
    pub(crate) fn parse(text: &str) -> Self {
        let mut markers = Self::default();
        let mut left = text;
        while let Some((before, after)) = left.split_once("[[") {
            let Some(end) = end_of_marker(after) else { break };
            let (name, arguments) = after[..end].trim().split_once(' ').unwrap_or((after[..end].trim(), ""));
            markers.found.push((name.to_owned(), arguments.to_owned()));
            markers.rest.push_str(before);
            left = &after[end + 2..];
        }
        markers.rest.push_str(left);
        markers.rest = markers.rest.trim().to_owned();
        markers
    }

    /// The arguments of the first direction called `name`.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.iter().find(|(found, _)| *found == name).map(|(_, arguments)| arguments)
    }

    /// Whether there is a direction called `name`.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// The arguments of all directions called `name`.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.iter().filter(move |(found, _)| *found == name).map(|(_, arguments)| arguments)
    }

    /// The first argument of `name` as a number.
    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.get(name)?.split_whitespace().next()?.parse().ok()
    }

    /// All directions, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.found.iter().map(|(name, arguments)| (name.as_str(), arguments.as_str()))
    }
}

/// Where the `]]` stands that closes a marker; of `]]]` the last two, so that arguments may end in an array.
fn end_of_marker(text: &str) -> Option<usize> {
    let mut end = text.find("]]")?;
    while text[end + 2..].starts_with(']') {
        end += 1;
    }
    Some(end)
}
