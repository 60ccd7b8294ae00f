"""HTTP for operators: metrics, the page that shows what the shield does, and the API beside it."""
