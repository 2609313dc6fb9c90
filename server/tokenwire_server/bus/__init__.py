"""The bus port and its adapters: topics of records between the processes that one server can be split into."""
