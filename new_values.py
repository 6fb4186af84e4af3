"""Tests of issue 19, items 4, 5 and 9, to be merged into test_dyna_veggie.py."""
# ruff: noqa: F403, F405, I001

from test_dyna_veggie import *  # noqa


# section: Configuration
BAD_EXPIRIES = ['soon', math.inf, -math.inf, math.nan, 10**400, [1], True]


@pytest.mark.parametrize('setting', [
    'result_expires', 'result_failure_expires', 'result_chord_expires'])
@pytest.mark.parametrize('bad', BAD_EXPIRIES, ids=lambda bad: repr(bad)[:10])
def test_a_bad_expiry_in_celerys_settings_is_a_clear_error(
        setting: str, bad: Any, make_app: MakeApp) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        make_app(**{setting: bad}).backend
    assert str(caught.value) == (
        f'dynamodb result backend: {setting}={bad!r} must be seconds, a timedelta, '
        'or None for ever')


@pytest.mark.parametrize('setting', [
    'result_expires', 'result_failure_expires', 'result_chord_expires'])
def test_an_expiry_in_celerys_settings_can_be_text(setting: str, make_app: MakeApp) -> None:
    backend = make_app(**{setting: '3600'}).backend
    assert backend._state_lifetime(states.SUCCESS) == (
        3600 if setting == 'result_expires' else 86400)
    failed_part = Context({'chord': {'task': 'body'}})
    assert backend._state_lifetime(states.FAILURE, failed_part) == max(
        3600 if setting != 'result_chord_expires' else 86400,
        3600 if setting != 'result_failure_expires' else 86400)


def test_an_expiry_that_a_backend_is_made_with_is_checked(app: Celery) -> None:
    assert dv.DynamoDBBackend(app=app, url='dynamodb://local', expires='60').expires == 60
    with pytest.raises(ImproperlyConfigured, match=' expires=inf must be seconds'):
        dv.DynamoDBBackend(app=app, url='dynamodb://local', expires=math.inf)


@pytest.mark.parametrize('bad', ['soon', math.inf, math.nan, -1])
def test_a_bad_time_to_join_a_chord_is_a_clear_error(bad: Any, make_app: MakeApp) -> None:
    with pytest.raises(ImproperlyConfigured) as caught:
        make_app(result_chord_join_timeout=bad).backend
    assert str(caught.value) == (
        f'dynamodb result backend: result_chord_join_timeout={bad!r} must be seconds, 0 or more')


def test_the_time_to_join_a_chord_can_be_text(make_app: MakeApp, proxy: Proxy) -> None:
    app = make_app('consistency_wait_time=0.01', result_chord_join_timeout='0.02')
    drive = Drive(ready(app, proxy).app, 2)
    drive.apply()
    drive.returns(0)
    app.backend.forget(drive.ids[0])
    drive.returns(1)
    assert drive.error().startswith(f'The result of {drive.ids[0]} did not appear: ')
