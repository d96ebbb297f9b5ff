"""The accuracy study: paired training runs and the equivalence test."""
