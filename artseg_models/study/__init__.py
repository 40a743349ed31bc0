"""The paper's comparison, repeated on data that one names: data sets x methods x seeds, tables, figures, one page."""
