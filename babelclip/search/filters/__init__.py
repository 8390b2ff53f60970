"""Conditions on the columns of a collection: a small typed tree, never the user's SQL.

`tree.py` is the tree and its check against the columns of a collection, `text.py` reads what a person writes
(`width >= 1000 and lang = 'sv'`), `exchange.py` is its JSON, `compiled.py` turns it into what engines understand.

Every condition is true or false. A row without a value fulfils no comparison, and `not` (and `!=`) is the exact rest:
`lang != 'sv'` keeps rows without a language. Text compares by code point, times are UTC.
"""

from __future__ import annotations

from babelclip.search.filters.compiled import mask as mask
from babelclip.search.filters.compiled import to_lance as to_lance
from babelclip.search.filters.compiled import to_milvus as to_milvus
from babelclip.search.filters.exchange import from_json as from_json
from babelclip.search.filters.exchange import to_json as to_json
from babelclip.search.filters.text import parse_where as parse_where
from babelclip.search.filters.tree import And as And
from babelclip.search.filters.tree import Eq as Eq
from babelclip.search.filters.tree import Filter as Filter
from babelclip.search.filters.tree import In as In
from babelclip.search.filters.tree import IsNull as IsNull
from babelclip.search.filters.tree import Ne as Ne
from babelclip.search.filters.tree import Not as Not
from babelclip.search.filters.tree import Or as Or
from babelclip.search.filters.tree import Range as Range
from babelclip.search.filters.tree import Value as Value
from babelclip.search.filters.tree import check_filter as check_filter
from babelclip.search.filters.tree import columns_of as columns_of

__all__ = [
    "And",
    "Eq",
    "Filter",
    "In",
    "IsNull",
    "Ne",
    "Not",
    "Or",
    "Range",
    "Value",
    "check_filter",
    "columns_of",
    "from_json",
    "mask",
    "parse_where",
    "to_json",
    "to_lance",
    "to_milvus",
]
