# SPDX-License-Identifier: Apache-2.0
"""What the end-to-end tests and fio-jobs/run share: start and kill daemons, guests and mounts, write and verify patterns."""
