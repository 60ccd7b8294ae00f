"""What ships beside the shield: a load tester, a small nameserver, the demo."""
