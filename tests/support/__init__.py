"""What the tests share: functions run in workers, a census of the machine, a watchdog, scripts run in processes of their own."""
