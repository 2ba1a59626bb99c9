//! An option that takes one of a few words.

/// Gives an enum `FromStr`, in any case, and `Display`. A variant is displayed as its first word; others are read too.
macro_rules! words {
    ($choice:ident { $($variant:ident = $word:literal $(| $other:literal)*),+ $(,)? }) => {
        impl std::str::FromStr for $choice {
            type Err = String;

            fn from_str(text: &str) -> Result<$choice, String> {
                match text.to_ascii_lowercase().as_str() {
                    $($word $(| $other)* => Ok($choice::$variant),)+
                    _ => Err(crate::choice::none_of(text, &[$($word),+])),
                }
            }
        }

        impl std::fmt::Display for $choice {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self {
                    $($choice::$variant => $word,)+
                })
            }
        }
    };
}
pub(crate) use words;

/// Why `text` is refused.
pub(crate) fn none_of(text: &str, words: &[&str]) -> String {
    match words {
        [one, other] => format!("`{text}` is neither {one} nor {other}"),
        [others @ .., last] => format!("`{text}` is none of {} and {last}", others.join(", ")),
        [] => format!("`{text}` is not known"),
    }
}

#[cfg(test)]
mod tests {
    #[derive(Debug, PartialEq)]
    enum Meal {
        Breakfast,
        Supper,
    }
    super::words!(Meal { Breakfast = "breakfast", Supper = "supper" | "dinner" });

    #[test]
    fn one_of_a_few_words() {
        for (text, meal) in [("breakfast", Meal::Breakfast), ("Supper", Meal::Supper), ("DINNER", Meal::Supper)] {
            assert_eq!(text.parse(), Ok(meal));
        }
        assert_eq!(Meal::Supper.to_string(), "supper");
        assert_eq!("tea".parse::<Meal>(), Err("`tea` is neither breakfast nor supper".to_owned()));
        assert_eq!(super::none_of("x", &["a", "b", "c"]), "`x` is none of a, b and c");
    }
}
