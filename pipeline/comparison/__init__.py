"""The table of all methods: metrics of their predictions, and the page that shows them."""
